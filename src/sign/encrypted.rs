//! How cosign encrypts a private key (`secure-systems-lab/go-securesystemslib/encrypted`): NaCl's secretbox (XSalsa20 and
//! Poly1305) under a key that scrypt makes of the password, all of it as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use serde::Deserialize;

use super::InvalidKey;

/// The largest work that is done for a password: cosign asks for 2^16, and 2^20 take a gigabyte.
const MOST_WORK: u8 = 20;
const LARGEST_BLOCK: u32 = 8;
const MOST_LANES: u32 = 16;

#[derive(Deserialize)]
struct Envelope {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Derivation {
    name: String,
    params: Parameters,
    salt: String,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "N")]
    work: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// The key in an envelope.
pub(super) fn decrypt(envelope: &[u8], password: &str) -> Result<Vec<u8>, InvalidKey> {
    let other = |reason: String| InvalidKey::Encryption { reason };
    let envelope: Envelope = serde_json::from_slice(envelope).map_err(|error| other(error.to_string()))?;
    if envelope.kdf.name != "scrypt" || envelope.cipher.name != "nacl/secretbox" {
        return Err(other(format!("{} and {}", envelope.kdf.name, envelope.cipher.name)));
    }
    let decoded = |text: &str| STANDARD.decode(text).map_err(|error| other(error.to_string()));
    let nonce: [u8; 24] =
        decoded(&envelope.cipher.nonce)?.try_into().map_err(|_| other("a nonce has 24 bytes".to_owned()))?;
    let parameters =
        parameters(&envelope.kdf.params).ok_or_else(|| other("the work of scrypt is out of range".to_owned()))?;
    let mut key = [0; 32];
    scrypt::scrypt(password.as_bytes(), &decoded(&envelope.kdf.salt)?, &parameters, &mut key)
        .map_err(|error| other(error.to_string()))?;
    open(&decoded(&envelope.ciphertext)?, &key, &nonce).ok_or(InvalidKey::Password)
}

fn parameters(given: &Parameters) -> Option<scrypt::Params> {
    let work = u8::try_from(given.work.checked_ilog2()?).ok()?;
    let is_in_range =
        given.work.is_power_of_two() && work <= MOST_WORK && given.r <= LARGEST_BLOCK && given.p <= MOST_LANES;
    is_in_range.then(|| scrypt::Params::new(work, given.r, given.p).ok())?
}

/// Opens a secretbox: the first 32 bytes of the key stream are Poly1305's key, the box begins with its tag.
fn open(sealed: &[u8], key: &[u8; 32], nonce: &[u8; 24]) -> Option<Vec<u8>> {
    let (tag, text) = sealed.split_at_checked(16)?;
    let mut cipher = XSalsa20::new(key.into(), nonce.into());
    let mut authenticator = [0; 32];
    cipher.apply_keystream(&mut authenticator);
    let expected = Poly1305::new((&authenticator).into()).compute_unpadded(text);
    if expected.as_slice() != tag {
        return None;
    }
    let mut text = text.to_vec();
    cipher.apply_keystream(&mut text);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secretbox_is_opened_as_nacl_seals_it() {
        // From NaCl's own tests (`tests/secretbox.c`): the first bytes of its message of 131.
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let sealed =
            hex("f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a\
             c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae\
             90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74\
             e355a5");
        let opened = open(&sealed, &key.clone().try_into().unwrap(), &nonce.clone().try_into().unwrap()).unwrap();
        assert_eq!(opened.len(), 131);
        assert_eq!(opened[..8], hex("be075fc53c81f2d5")[..]);
        let mut damaged = sealed.clone();
        damaged[20] ^= 1;
        let (key, nonce) = (key.try_into().unwrap(), nonce.try_into().unwrap());
        assert_eq!(open(&damaged, &key, &nonce), None);
        assert_eq!(open(&[0; 3], &key, &nonce), None);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn work_that_would_take_the_machines_memory_is_refused() {
        for (work, r, p) in [(1 << 30, 8, 1), (65_535, 8, 1), (0, 8, 1), (65_536, 1 << 20, 1), (65_536, 8, 1 << 20)] {
            assert!(parameters(&Parameters { work, r, p }).is_none(), "{work} {r} {p}");
        }
        assert!(parameters(&Parameters { work: 65_536, r: 8, p: 1 }).is_some());
    }
}
