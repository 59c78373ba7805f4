//! Plain downloads: what ADD fetches from a URL.

use std::io::Read;

use ureq::http::Method;

use super::Client;
use super::error::RegistryError;
use super::http::Request;
use super::url::Url;

/// What is asked for.
#[derive(Clone, Copy)]
pub struct DownloadRequest<'a> {
    /// An `http` or `https` address.
    pub address: &'a str,
    /// The value of `Authorization`, for this server alone: a redirect to another does not carry it there.
    pub authorization: Option<&'a str>,
    /// The tag of the content that is here already.
    pub known: Option<&'a str>,
}

/// What an address gave.
pub enum Downloaded {
    /// Content.
    New(Download),
    /// What is here is what it has.
    Unchanged,
}

/// Content.
pub struct Download {
    /// The body.
    pub body: Box<dyn Read + Send>,
    /// What the server calls it (ETag).
    pub tag: Option<String>,
    /// Last-Modified in seconds since 1970, where the server said it.
    pub last_modified: Option<i64>,
}

impl Client {
    /// Asks an address. Redirects are followed, but never to another scheme than `http` and `https`, and no registry's
    /// credentials are sent.
    pub fn download(&self, asked: &DownloadRequest<'_>) -> Result<Downloaded, RegistryError> {
        let shown = without_credentials(asked.address);
        let url = Url::parse(asked.address).ok_or_else(|| RegistryError::Protocol {
            status: 0,
            method: "GET".to_owned(),
            url: shown.clone(),
            message: "it is no address that can be downloaded; credentials belong into secrets, not into the URL"
                .to_owned(),
        })?;
        let mut request = Request::new(Method::GET, url.clone());
        if let Some(tag) = asked.known {
            request = request.header("if-none-match", tag);
        }
        let transport = &self.shared.transport;
        let mut answer = transport.retrying(&request, || transport.follow(&request, &url, asked.authorization))?;
        match answer.status {
            200 => {}
            304 if asked.known.is_some() => return Ok(Downloaded::Unchanged),
            status => {
                let message = answer.message();
                return Err(RegistryError::Protocol { status, method: "GET".to_owned(), url: shown, message });
            }
        }
        let last_modified = answer.header("last-modified").and_then(parse_http_date);
        let tag = answer.header("etag").map(str::to_owned);
        Ok(Downloaded::New(Download { body: Box::new(answer.body.into_reader()), tag, last_modified }))
    }
}

/// An address as it may be shown: without user, password and query.
pub fn without_credentials(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let path = path.split('?').next().unwrap_or(path);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}")
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7) as seconds since 1970; the obsolete forms are not read.
fn parse_http_date(text: &str) -> Option<i64> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let word = words.next()?;
    let month = months.iter().position(|month| *month == word)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1970 (Howard Hinnant, `days_from_civil`).
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_servers_are_read() {
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn what_is_shown_of_an_address_has_no_secret() {
        assert_eq!(without_credentials("https://user:pw@host/a?token=x"), "https://host/a");
        assert_eq!(without_credentials("git@host:a/b.git"), "host:a/b.git");
    }
}
