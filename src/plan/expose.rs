//! EXPOSE: `[ip:][host:]port[-port][/protocol]` → `port/protocol`, as dockerfile2llb/convert_expose.go reads it.

use std::net::IpAddr;

/// What one word of EXPOSE comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exposed {
    /// `port/protocol`, ranges expanded.
    pub(super) ports: Vec<String>,
    /// Whether the protocol was written with capitals.
    pub(super) protocol_has_capitals: bool,
    /// Whether an address or a port of the host was given, which EXPOSE cannot use.
    pub(super) maps_host: bool,
}

/// Reads one word.
pub(super) fn parse(word: &str) -> Result<Exposed, String> {
    let (ip, host, container) = split(word);
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(format!("invalid port: {word:?}: no port specified"));
    }
    let lower = match protocol.to_lowercase() {
        lower if lower.is_empty() => "tcp".to_owned(),
        lower if matches!(lower.as_str(), "tcp" | "udp" | "sctp") => lower,
        _ => return Err(format!("invalid port: {word:?}: invalid proto: {protocol}")),
    };
    let address = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (start, end) = port_range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if !host.is_empty() {
        let (host_start, host_end) = port_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if end != start && end - start != host_end - host_start {
            return Err(format!("invalid ranges specified for container and host Ports: {range} and {host}"));
        }
    }
    Ok(Exposed {
        ports: (start..=end).map(|port| format!("{port}/{lower}")).collect(),
        protocol_has_capitals: protocol.chars().any(char::is_uppercase),
        maps_host: !ip.is_empty() || !host.is_empty(),
    })
}

/// Address, port of the host, port of the container; an address may hold colons itself.
fn split(word: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = word.rsplit_once(':') else { return ("", "", word) };
    match rest.rsplit_once(':') {
        Some((ip, host)) => (ip, host, container),
        None => ("", rest, container),
    }
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok();
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (port(start)?, port(end)?);
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_buildkit_reads_them() {
        let ports = |word: &str| parse(word).map(|exposed| exposed.ports.join(" "));
        assert_eq!(ports("80").unwrap(), "80/tcp");
        assert_eq!(ports("80-82/UDP").unwrap(), "80/udp 81/udp 82/udp");
        assert_eq!(ports("127.0.0.1:8080:80").unwrap(), "80/tcp");
        assert_eq!(ports("[::1]:8080:80/sctp").unwrap(), "80/sctp");
        assert_eq!(ports("::1::80").unwrap(), "80/tcp");
        assert_eq!(ports("8000-8100:80").unwrap(), "80/tcp");
        assert!(parse("1:80").unwrap().maps_host);
        assert!(parse("80/Tcp").unwrap().protocol_has_capitals);
        for (word, message) in [
            ("", "invalid port: \"\": no port specified"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("80/xyz", "invalid port: \"80/xyz\": invalid proto: xyz"),
            ("90-80", "invalid containerPort: 90-80"),
            ("65536", "invalid containerPort: 65536"),
            ("x", "invalid containerPort: x"),
            ("localhost:80:80", "invalid IP address: localhost"),
            ("x:80", "invalid hostPort: x"),
            ("1-2:80-90", "invalid ranges specified for container and host Ports: 80-90 and 1-2"),
        ] {
            assert_eq!(ports(word), Err(message.to_owned()));
        }
    }
}
