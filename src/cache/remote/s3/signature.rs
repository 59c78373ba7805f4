//! AWS Signature Version 4 with its variations for S3: pure, from a request and a moment to headers.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::time::SystemTime;

use ring::hmac;

use super::super::secret::Secret;
use crate::digest::Digest;
use crate::image::time::rfc3339;

/// What requests are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The name of the key, which is in each request.
    pub id: String,
    /// The key.
    pub secret: Secret,
    /// Comes with keys that end soon.
    pub session: Option<Secret>,
}

/// Where a signature counts.
pub(super) struct Field<'a> {
    pub region: &'a str,
    pub service: &'a str,
}

/// A request to sign. `query` has no `?`, and both it and the path are percent-encoded already.
pub(super) struct Unsigned<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    /// Headers to sign beside `host`; names in lower case.
    pub headers: &'a [(&'static str, String)],
    /// The digest of what is sent.
    pub payload: Digest,
}

/// The moment as it is in a request.
pub(super) fn moment(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    rfc3339(i64::try_from(seconds).unwrap_or(0), None).replace(['-', ':'], "")
}

/// The value of `Authorization`; all of the request's headers have to be in `unsigned`, `x-amz-date` with the moment.
pub(super) fn authorization(unsigned: &Unsigned<'_>, keys: &Keys, field: &Field<'_>, moment: &str) -> String {
    let day = &moment[..8];
    let scope = format!("{day}/{}/{}/aws4_request", field.region, field.service);
    let (canonical, names) = canonical(unsigned);
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", Digest::of(canonical.as_bytes()).hex());
    let first = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{}", keys.secret.reveal()).as_bytes());
    let key = [day, field.region, field.service, "aws4_request"]
        .iter()
        .fold(first, |key, part| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref()));
    let signature: String =
        hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", keys.id)
}

/// The canonical request, and the names of the headers that are signed.
fn canonical(unsigned: &Unsigned<'_>) -> (String, String) {
    let mut parameters: Vec<String> = unsigned
        .query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| if parameter.contains('=') { parameter.to_owned() } else { format!("{parameter}=") })
        .collect();
    parameters.sort();
    let mut headers: Vec<(&str, &str)> =
        unsigned.headers.iter().map(|(name, value)| (*name, value.trim())).chain([("host", unsigned.host)]).collect();
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let (method, path, payload) = (unsigned.method, unsigned.path, unsigned.payload.hex());
    (format!("{method}\n{path}\n{}\n{lines}\n{names}\n{payload}", parameters.join("&")), names)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keys(id: &str, secret: &str) -> Keys {
        Keys { id: id.to_owned(), secret: Secret::new(secret), session: None }
    }

    /// The examples of S3's documentation.
    #[test]
    fn the_examples_of_amazon_are_signed_as_amazon_signs_them() {
        let keys = keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let field = Field { region: "us-east-1", service: "s3" };
        let moment = "20130524T000000Z";
        let signed = |method, path, query, more: &[(&'static str, &str)], payload: &[u8]| {
            let payload = Digest::of(payload);
            let mut headers = vec![("x-amz-content-sha256", payload.hex()), ("x-amz-date", moment.to_owned())];
            headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
            let host = "examplebucket.s3.amazonaws.com";
            let unsigned = Unsigned { method, host, path, query, headers: &headers, payload };
            let value = authorization(&unsigned, &keys, &field, moment);
            let beginning = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ";
            assert!(value.starts_with(beginning), "{value}");
            value.rsplit_once('=').unwrap().1.to_owned()
        };
        assert_eq!(
            signed("GET", "/test.txt", "", &[("range", "bytes=0-9")], b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let put = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(
            signed("PUT", "/test%24file.text", "", &put, b"Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signed("GET", "/", "lifecycle", &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            signed("GET", "/", "prefix=J&max-keys=2", &[], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    /// `get-vanilla` of Amazon's test suite for Signature Version 4.
    #[test]
    fn the_first_vector_of_the_suite_is_signed_as_it_says() {
        let keys = keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let moment = moment(SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160));
        let headers = [("x-amz-date", moment.clone())];
        let (host, payload) = ("example.amazonaws.com", Digest::of(b""));
        let unsigned = Unsigned { method: "GET", host, path: "/", query: "", headers: &headers, payload };
        let value = authorization(&unsigned, &keys, &Field { region: "us-east-1", service: "service" }, &moment);
        assert_eq!(
            value,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }
}
