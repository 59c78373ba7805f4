//! Absolute `http` and `https` addresses, with the few operations that a registry client needs.
//!
//! Contract: a [`Url`] has a scheme, a host, never user information or a fragment, and no character that could end a
//! request line. Its `Display` leaves the query out: signed addresses of object stores carry their permission there, and
//! `Display` is what reaches messages.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    authority: String,
    /// Path and query; starts with `/`.
    target: String,
}

impl Url {
    pub(super) fn new(scheme: Scheme, authority: &str, target: &str) -> Url {
        Url { scheme, authority: authority.to_owned(), target: target.to_owned() }
    }

    /// Reads an absolute address; `None` where it is none that may be asked.
    pub fn parse(text: &str) -> Option<Url> {
        let (scheme, rest) = match text.split_once("://")? {
            (scheme, rest) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !plain(authority) || !plain(&target) {
            return None;
        }
        Some(Url { scheme, authority: authority.to_ascii_lowercase(), target })
    }

    /// The same without a port that goes without saying: what is signed is what is sent as `Host`.
    pub fn plain(self) -> Url {
        let port = format!(":{}", self.scheme.default_port());
        match self.authority.strip_suffix(&port) {
            Some(host) => Url { authority: host.to_owned(), ..self },
            None => self,
        }
    }

    /// Resolves a `Location` against this address (RFC 3986 §5, without dot segments).
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Url::parse(location);
        }
        let origin = format!("{}://{}", self.scheme.text(), self.authority);
        if location.starts_with("//") {
            return Url::parse(&format!("{}:{location}", self.scheme.text()));
        }
        if location.starts_with('/') {
            return Url::parse(&format!("{origin}{location}"));
        }
        let path = self.path();
        if location.starts_with('?') {
            return Url::parse(&format!("{origin}{path}{location}"));
        }
        let directory = &path[..=path.rfind('/').unwrap_or(0)];
        Url::parse(&format!("{origin}{directory}{location}"))
    }

    /// The same with one more query parameter.
    pub fn with_parameter(&self, name: &str, value: &str) -> Url {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        let target = format!("{}{separator}{name}={}", self.target, encode(value));
        Url { target, ..self.clone() }
    }

    /// Another path and query at the same place.
    pub fn with_target(&self, target: &str) -> Url {
        Url::new(self.scheme, &self.authority, target)
    }

    /// A host whose name is this host's with one more before it.
    pub fn below(&self, name: &str) -> Url {
        Url { authority: format!("{}.{}", name.to_ascii_lowercase(), self.authority), ..self.clone() }
    }

    pub(super) fn with_scheme(&self, scheme: Scheme) -> Url {
        Url { scheme, ..self.clone() }
    }

    /// Whether what goes there is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::Https
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// The path, as it is sent.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether credentials for the one may go to the other.
    pub(super) fn same_origin(&self, other: &Url) -> bool {
        self.scheme == other.scheme && self.host() == other.host() && self.port() == other.port()
    }

    pub(super) fn port(&self) -> Option<u16> {
        port_of(&self.authority).map_or(Some(self.scheme.default_port()), |port| port.parse().ok())
    }

    /// All of it, for the request itself; never for a message.
    pub(super) fn with_query(&self) -> String {
        format!("{}://{}{}", self.scheme.text(), self.authority, self.target)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.text(), self.authority, self.path())
    }
}

/// The host of `host[:port]`, without the brackets of IPv6.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn port_of(authority: &str) -> Option<&str> {
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    after_host.rsplit_once(':').map(|(_, port)| port)
}

/// Whether a host names this machine: `localhost`, 127.0.0.0/8 or ::1 (what Docker takes for insecure by itself).
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a host is an address literal that no public token server has: loopback, private, link-local, unspecified.
pub(super) fn is_private_literal(host: &str) -> bool {
    let private_v4 = |address: Ipv4Addr| {
        address.is_loopback()
            || address.is_private()
            || address.is_link_local()
            || address.is_unspecified()
            || address.is_broadcast()
    };
    let private_v6 = |address: Ipv6Addr| {
        let first = address.segments()[0];
        address.is_loopback() || address.is_unspecified() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
    };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => private_v4(address),
        Ok(IpAddr::V6(address)) => address.to_ipv4_mapped().map_or(private_v6(address), private_v4),
        // A name of nothing but digits and dots, or hexadecimal, is an address in inet_aton's eyes (`2130706433`).
        Err(_) => host.eq_ignore_ascii_case("localhost") || is_odd_address(host),
    }
}

fn is_odd_address(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    !last.is_empty() && (last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x"))
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_the_address_that_gave_them() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/uploads/?x=1").unwrap();
        for (location, expected) in [
            ("/v2/b", "https://r.example:5000/v2/b"),
            ("id?state=1", "https://r.example:5000/v2/a/blobs/uploads/id?state=1"),
            ("?state=1", "https://r.example:5000/v2/a/blobs/uploads/?state=1"),
            ("//other.example/x", "https://other.example/x"),
            ("http://other.example", "http://other.example/"),
            ("/redirect?to=https://x.example/", "https://r.example:5000/redirect?to=https://x.example/"),
        ] {
            assert_eq!(base.join(location).map(|url| url.with_query()).as_deref(), Some(expected), "{location}");
        }
        for location in ["ftp://x/", "https://u:p@x/", "https:///x", "/a b", "/a\r\nHost: x"] {
            assert_eq!(base.join(location), None, "{location:?}");
        }
    }

    #[test]
    fn a_shown_address_has_no_query() {
        let url = Url::parse("https://s3.example/blob?X-Amz-Signature=secret#f").unwrap();
        assert_eq!(url.to_string(), "https://s3.example/blob");
        assert!(url.with_query().ends_with("=secret"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |one: &str, two: &str| Url::parse(one).unwrap().same_origin(&Url::parse(two).unwrap());
        assert!(same("https://a.example/x", "https://A.example:443/y"));
        assert!(!same("https://a.example/", "http://a.example/"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://a.example/", "https://b.a.example/"));
        assert!(same("http://[::1]:5000/", "http://[::1]:5000/x"));
        assert!(!same("http://[::1]:5000/", "http://[::1]:5001/x"));
    }

    #[test]
    fn private_address_literals_are_seen_in_all_spellings() {
        for host in
            ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "2130706433"]
        {
            assert!(is_private_literal(host), "{host}");
        }
        for host in ["auth.docker.io", "8.8.8.8", "2001:4860::1", "10.example"] {
            assert!(!is_private_literal(host), "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_location_is_refused_or_plain(location in r#"(https?://|//|/|\?|#|@|:|\[|\]|%|é|\r\n|[a-z0-9.]{1,4}){0,12}"#) {
            let base = Url::parse("https://r.example/v2/a").unwrap();
            if let Some(url) = base.join(&location) {
                let text = url.with_query();
                proptest::prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()) && !url.authority().contains('@'));
                proptest::prop_assert_eq!(Url::parse(&text), Some(url));
            }
        }
    }
}
