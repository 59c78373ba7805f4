//! Which proxy a request goes through, by the rules of Go's `http.ProxyFromEnvironment`, which docker and podman follow.
//!
//! `HTTPS_PROXY` is for https and `HTTP_PROXY` for http, `ALL_PROXY` (curl's) for both where they say nothing; upper case wins
//! over lower case. This machine, and link-local addresses, are never asked through a proxy. `NO_PROXY` has hosts
//! (`a.example`: with all below it, `.a.example`: those below it alone), addresses, networks (`10.0.0.0/8`), each perhaps with a port, or `*`.

use std::net::{IpAddr, Ipv6Addr};

use super::url::{Scheme, Url, is_loopback};

/// What the environment says about proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    exceptions: Vec<Exception>,
}

/// A proxy, and the variable that names it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Setting {
    pub variable: &'static str,
    /// May hold a password.
    pub address: String,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Setting").field(&self.variable).finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    place: Place,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Everything,
    /// A name and all below it.
    Domain(String),
    /// All below a name.
    Below(String),
    Network(IpAddr, u8),
}

impl Proxies {
    /// None at all.
    pub fn none() -> Proxies {
        Proxies::default()
    }

    /// Those of the environment.
    pub fn load() -> Proxies {
        Proxies::from_environment(&|name| std::env::var(name).ok())
    }

    pub(super) fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Proxies {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let address = variable(name).filter(|value| !value.is_empty())?;
                Some(Setting { variable: name, address })
            })
        };
        let exceptions = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        Proxies {
            http: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            exceptions: exceptions.split(',').filter_map(Exception::parse).collect(),
        }
    }

    /// The proxy for an address.
    pub(super) fn of(&self, url: &Url) -> Option<&Setting> {
        let setting = match url.scheme() {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        };
        setting.filter(|_| !is_near(url.host()) && !self.exceptions.iter().any(|exception| exception.covers(url)))
    }
}

/// Whether a host is this machine, or its network's own service: what a cloud tells its machines about themselves (keys
/// among it) comes from such addresses, and is nothing for a proxy.
fn is_near(host: &str) -> bool {
    let unique_local = |address: Ipv6Addr| address.segments()[..2] == [0xfd00, 0xec2];
    is_loopback(host)
        || match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => address.is_link_local(),
            Ok(IpAddr::V6(address)) => address.is_unicast_link_local() || unique_local(address),
            Err(_) => false,
        }
}

impl Exception {
    /// `None` where nothing is said that could be understood; Go passes it over, too.
    fn parse(text: &str) -> Option<Exception> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Exception { place: Place::Everything, port: None });
        }
        if let Some((address, length)) = text.split_once('/') {
            let (address, length) = (address.parse().ok()?, length.parse().ok()?);
            return Some(Exception { place: Place::Network(address, length), port: None });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Exception { place: Place::Network(address, 128), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let place = match bare.parse::<IpAddr>() {
            Ok(address) => Place::Network(address, 128),
            Err(_) => match bare.strip_prefix("*.").or(bare.strip_prefix('.')) {
                Some(domain) => Place::Below(domain.to_owned()),
                None => Place::Domain(bare.to_owned()),
            },
        };
        (!bare.is_empty()).then_some(Exception { place, port })
    }

    fn covers(&self, url: &Url) -> bool {
        let host = url.host();
        let is_below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        let covered = match &self.place {
            Place::Everything => true,
            Place::Domain(domain) => host == domain || is_below(domain),
            Place::Below(domain) => is_below(domain),
            Place::Network(network, length) => {
                host.parse().is_ok_and(|address: IpAddr| is_within(address, *network, *length))
            }
        };
        covered && self.port.is_none_or(|port| url.port() == Some(port))
    }
}

fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((address, size), (network, network_size)) = (bits(address), bits(network));
    size == network_size && (address ^ network).checked_shr(size - u32::from(length).min(size)).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let proxies = Proxies::from_environment(&variable);
        proxies.of(&Url::parse(url).unwrap()).map(|setting| setting.address.clone())
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both =
            [("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "http://secure:2"), ("ALL_PROXY", "http://all:3")];
        assert_eq!(through(&both, "http://r.example/").as_deref(), Some("http://plain:1"));
        assert_eq!(through(&both, "https://r.example/").as_deref(), Some("http://secure:2"));
        assert_eq!(through(&both[..1], "https://r.example/"), None);
        assert_eq!(through(&both[2..], "https://r.example/").as_deref(), Some("http://all:3"));
        let lower = [("HTTPS_PROXY", ""), ("https_proxy", "lower:1")];
        assert_eq!(through(&lower, "https://r.example/").as_deref(), Some("lower:1"));
        for local in [
            "https://localhost:5000/",
            "https://127.0.0.1/",
            "http://[::1]:5000/",
            "http://169.254.169.254/",
            "http://[fd00:ec2::254]/",
        ] {
            assert_eq!(through(&both, local), None, "{local}");
        }
    }

    #[test]
    fn exceptions_are_those_of_go() {
        for (exceptions, host, is_direct) in [
            ("a.example", "a.example", true),
            ("a.example", "b.a.example:5000", true),
            ("a.example", "ba.example", false),
            (".a.example", "a.example", false),
            (".a.example", "b.a.example", true),
            ("*.a.example", "b.a.example", true),
            ("a.example:5000", "a.example:5000", true),
            ("a.example:5000", "a.example", false),
            ("a.example:443", "a.example", true),
            ("x, A.Example ,y", "a.example", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/0", "11.1.2.3", true),
            ("192.168.1.7", "192.168.1.7:5000", true),
            ("192.168.1.7", "192.168.1.8", false),
            ("fd00::/8", "[fd12::1]:5000", true),
            ("fd00::1", "[fd00::1]", true),
            ("[fd00::1]:443", "[fd00::1]", true),
            ("10.0.0.0/8", "a.example", false),
            ("*", "a.example", true),
            (",, /,:", "a.example", false),
        ] {
            let found =
                through(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", exceptions)], &format!("https://{host}/"));
            assert_eq!(found.is_none(), is_direct, "{exceptions} {host}");
        }
    }

    #[test]
    fn a_password_is_not_in_debug_output() {
        let variable = |name: &str| (name == "HTTP_PROXY").then(|| "http://u:hunter2@p".to_owned());
        assert!(!format!("{:?}", Proxies::from_environment(&variable)).contains("hunter2"));
    }
}
