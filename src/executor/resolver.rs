//! `/etc/resolv.conf` of RUN: the host's, with what the command line says in its place. It is a mount, so it is in no layer.

use std::fs;
use std::net::IpAddr;

/// What the command line says about names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Domains that short names are looked for in; `.` is none.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

impl Resolver {
    /// The file's content. `own` is the name server of a network that is not the host's.
    pub(super) fn resolv_conf(&self, own: Option<&str>) -> Vec<u8> {
        self.on_top_of(&of_host(), own).into_bytes()
    }

    fn on_top_of(&self, host: &str, own: Option<&str>) -> String {
        let servers: Vec<String> = match own {
            _ if !self.servers.is_empty() => self.servers.iter().map(ToString::to_string).collect(),
            Some(own) => vec![own.to_owned()],
            None => Vec::new(),
        };
        if servers.is_empty() && self.search.is_empty() && self.options.is_empty() {
            return host.to_owned();
        }
        let replaced = |line: &&str| match line.split_whitespace().next() {
            Some("nameserver") => servers.is_empty(),
            Some("search" | "domain") => self.search.is_empty(),
            Some("options") => self.options.is_empty(),
            Some(_) => true,
            None => false,
        };
        let mut lines: Vec<String> = host.lines().filter(replaced).map(str::to_owned).collect();
        lines.extend(servers.iter().map(|server| format!("nameserver {server}")));
        if !self.search.is_empty() && self.search != ["."] {
            lines.push(format!("search {}", self.search.join(" ")));
        }
        if !self.options.is_empty() {
            lines.push(format!("options {}", self.options.join(" ")));
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

/// The host's file; where it names only systemd's stub, the file behind the stub (as BuildKit does).
fn of_host() -> String {
    let read = |path: &str| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let text = read("/etc/resolv.conf");
    let mut servers: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).collect();
    servers.sort_unstable();
    servers.dedup();
    let behind = if servers == ["127.0.0.53"] { read("/run/systemd/resolve/resolv.conf") } else { String::new() };
    if behind.is_empty() { text } else { behind }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str =
        "# by hand\nnameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch corp.example\noptions ndots:2\n";

    #[test]
    fn without_a_word_it_is_the_host_s() {
        assert_eq!(Resolver::default().on_top_of(HOST, None), HOST);
    }

    #[test]
    fn each_kind_of_line_is_replaced_alone() {
        let resolver = Resolver { servers: vec!["2001:db8::1".parse().unwrap()], ..Resolver::default() };
        let expected = "# by hand\nsearch corp.example\noptions ndots:2\nnameserver 2001:db8::1\n";
        assert_eq!(resolver.on_top_of(HOST, Some("10.0.2.3")), expected);
        let resolver = Resolver { search: vec!["a.example".to_owned(), "b.example".to_owned()], ..Resolver::default() };
        let expected = "# by hand\noptions ndots:2\nnameserver 10.0.2.3\nsearch a.example b.example\n";
        assert_eq!(resolver.on_top_of(HOST, Some("10.0.2.3")), expected);
        let resolver = Resolver { options: vec!["timeout:1".to_owned()], ..Resolver::default() };
        let expected = HOST.replace("ndots:2", "timeout:1");
        assert_eq!(resolver.on_top_of(HOST, None), expected);
    }

    #[test]
    fn a_dot_takes_the_search_list_away() {
        let resolver = Resolver { search: vec![".".to_owned()], ..Resolver::default() };
        assert!(!resolver.on_top_of(HOST, None).contains("search"));
    }
}
