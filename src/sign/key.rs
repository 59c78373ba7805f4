//! Private keys: ECDSA on P-256 and Ed25519, in PKCS#8, plain or as cosign encrypts them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey,
};

use super::encrypted::decrypt;

/// The labels of keys that cosign encrypted; the second is that of its first versions.
const ENCRYPTED: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];

/// A key that signs.
pub struct SigningKey(Algorithm);

enum Algorithm {
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Says why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It is not in PEM.
    #[error("it is no private key in PEM (-----BEGIN …)")]
    NotPem,
    /// It is something else.
    #[error("it is a {label:?}, expected PRIVATE KEY (PKCS#8) or ENCRYPTED SIGSTORE PRIVATE KEY; {hint}")]
    Label {
        /// What it says that it is.
        label: String,
        /// How to make a key of it.
        hint: &'static str,
    },
    /// Nobody said the password.
    #[error("it is encrypted, and COSIGN_PASSWORD is not set")]
    NoPassword,
    /// The password is wrong, or the key is damaged.
    #[error("it cannot be decrypted: COSIGN_PASSWORD is wrong, or the file is damaged")]
    Password,
    /// How it is encrypted is not known here.
    #[error("it is encrypted in another way than cosign does it: {reason}")]
    Encryption {
        /// What is not known.
        reason: String,
    },
    /// The algorithm is not known here.
    #[error("it is no key of ECDSA on P-256 and none of Ed25519")]
    Algorithm,
    /// There were no random numbers.
    #[error("sign with it: there are no random numbers")]
    Random,
}

impl SigningKey {
    /// Reads a key in PEM; the password is asked for where it is encrypted.
    ///
    /// # Errors
    /// See [`InvalidKey`].
    pub fn read(pem: &str, password: Option<&str>) -> Result<SigningKey, InvalidKey> {
        let (label, body) = unwrapped(pem).ok_or(InvalidKey::NotPem)?;
        let der = match label {
            "PRIVATE KEY" => body,
            label if ENCRYPTED.contains(&label) => decrypt(&body, password.ok_or(InvalidKey::NoPassword)?)?,
            label => {
                let hint = match label {
                    "EC PRIVATE KEY" => "`openssl pkcs8 -topk8 -nocrypt -in KEY` makes one of it",
                    _ => "`cosign generate-key-pair` makes one",
                };
                return Err(InvalidKey::Label { label: label.to_owned(), hint });
            }
        };
        SigningKey::of_pkcs8(&der)
    }

    fn of_pkcs8(der: &[u8]) -> Result<SigningKey, InvalidKey> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new()) {
            return Ok(SigningKey(Algorithm::Elliptic(pair)));
        }
        // What openssl and Go write has no public half, which could be checked.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| InvalidKey::Algorithm)?;
        Ok(SigningKey(Algorithm::Edwards(pair)))
    }

    /// Signs bytes: in ASN.1 over their SHA-256 (ECDSA), or as they are (Ed25519).
    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, InvalidKey> {
        match &self.0 {
            Algorithm::Elliptic(pair) => {
                let signature = pair.sign(&SystemRandom::new(), bytes).map_err(|_| InvalidKey::Random)?;
                Ok(signature.as_ref().to_vec())
            }
            Algorithm::Edwards(pair) => Ok(pair.sign(bytes).as_ref().to_vec()),
        }
    }

    /// Whether a signature of these bytes is this key's.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.0 {
            Algorithm::Elliptic(pair) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key()).verify(bytes, signature)
            }
            Algorithm::Edwards(pair) => UnparsedPublicKey::new(&ED25519, pair.public_key()).verify(bytes, signature),
        };
        verified.is_ok()
    }
}

/// The label and the bytes of the first block in PEM (RFC 7468); headers before the bytes are passed over.
fn unwrapped(pem: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let text: String = body.lines().filter(|line| !line.contains(':')).flat_map(|line| line.trim().chars()).collect();
    Some((label, STANDARD.decode(text).ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `cosign generate-key-pair` and its kin write such keys; these were made for the tests by openssl.
    const ELLIPTIC: &str = include_str!("../../testdata/sign/p256.pem");
    const EDWARDS: &str = include_str!("../../testdata/sign/ed25519.pem");
    const TRADITIONAL: &str = include_str!("../../testdata/sign/p256-sec1.pem");
    const ENCRYPTED_KEY: &str = include_str!("../../testdata/sign/cosign.key");

    pub(in crate::sign) fn elliptic() -> SigningKey {
        SigningKey::read(ELLIPTIC, None).unwrap()
    }

    pub(in crate::sign) fn edwards() -> SigningKey {
        SigningKey::read(EDWARDS, None).unwrap()
    }

    #[test]
    fn what_a_key_signs_it_knows_again_and_no_other_does() {
        let [first, second] = [elliptic(), edwards()];
        for (key, other) in [(&first, &second), (&second, &first)] {
            let signature = key.sign(b"words").unwrap();
            assert!(key.has_signed(b"words", &signature));
            assert!(!key.has_signed(b"other words", &signature) && !other.has_signed(b"words", &signature));
        }
    }

    #[test]
    fn cosigns_encrypted_key_opens_with_its_password_alone() {
        // The same key as the plain one.
        let key = SigningKey::read(ENCRYPTED_KEY, Some("correct horse")).unwrap();
        assert!(elliptic().has_signed(b"words", &key.sign(b"words").unwrap()));
        assert_eq!(SigningKey::read(ENCRYPTED_KEY, Some("wrong")).unwrap_err(), InvalidKey::Password);
        assert_eq!(SigningKey::read(ENCRYPTED_KEY, None).unwrap_err(), InvalidKey::NoPassword);
    }

    #[test]
    fn what_is_no_key_is_refused_with_a_reason() {
        let refused = |text: &str| SigningKey::read(text, None).unwrap_err();
        assert_eq!(refused("nothing"), InvalidKey::NotPem);
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----"), InvalidKey::NotPem);
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----"), InvalidKey::Algorithm);
        let error = refused(TRADITIONAL).to_string();
        assert!(error.contains("EC PRIVATE KEY") && error.contains("openssl pkcs8"), "{error}");
        assert_eq!(format!("{:?}", elliptic()), "SigningKey");
    }
}
