//! The bucket against S3 in this process, which checks signatures, and against each of its faults.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::fake::{BUCKET, Cloud, Fault, KEY_ID, REGION};
use super::super::storage::Piece;
use super::super::{Secret, quick_client};
use super::*;
use crate::digest::VerifyReader;
use crate::image::media_type::{OCI_LAYER_ZSTD, OCI_MANIFEST};
use crate::progress::Progress;

const SECRET: &str = "secret/key+";

fn place(cloud: &Cloud) -> BucketPlace {
    BucketPlace {
        bucket: BUCKET.to_owned(),
        region: Some(REGION.to_owned()),
        endpoint: Url::parse(&cloud.url()),
        style: Style::Path,
        prefix: "team one/".to_owned(),
        blobs_prefix: "blobs/".to_owned(),
        manifests_prefix: "manifests/".to_owned(),
        name: "app".to_owned(),
        more_names: vec!["main".to_owned()],
        keys: Some(Keys { id: KEY_ID.to_owned(), secret: Secret::new(SECRET), session: None }),
        upload_parallelism: NonZeroUsize::MIN,
        touch_refresh: Duration::from_secs(3600),
        variables: Variables::default(),
    }
}

fn bucket(cloud: &Cloud) -> Bucket {
    Bucket::new(quick_client(), place(cloud))
}

fn piece(bytes: &'static [u8]) -> Piece {
    let open: Open = Arc::new(move || Ok(Box::new(bytes)));
    Piece { descriptor: Descriptor::of(OCI_LAYER_ZSTD, bytes), open, mount_from: Vec::new(), belief: Belief::Usual }
}

fn content(layers: &[&'static [u8]], manifest: &[u8]) -> Content {
    Content {
        manifest: (Descriptor::of(OCI_MANIFEST, manifest), manifest.to_vec()),
        config: (Descriptor::of("application/json", b"{}"), b"{}".to_vec()),
        layers: layers.iter().map(|bytes| piece(bytes)).collect(),
        belief: Belief::Usual,
    }
}

fn write(bucket: &Bucket, content: Content) -> Result<Written> {
    bucket.write(content, &Progress::silent().task("export"))
}

fn read(bucket: &Bucket, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let descriptor = Descriptor::of(OCI_LAYER_ZSTD, bytes);
    let mut found = Vec::new();
    let reader = bucket.open(&descriptor)?;
    VerifyReader::new(reader, descriptor.digest, Some(descriptor.size)).read_to_end(&mut found)?;
    Ok(found)
}

#[test]
fn what_is_written_is_read_and_only_what_is_missing_is_sent() {
    let cloud = Cloud::s3(SECRET, None);
    assert_eq!(bucket(&cloud).top().unwrap(), None);
    assert_eq!(write(&bucket(&cloud), content(&[b"one", b"two"], b"first")).unwrap(), Written { sent: 3, bytes: 8 });
    let other = bucket(&cloud);
    assert_eq!(other.top().unwrap().as_deref(), Some(b"first".as_slice()));
    assert_eq!(other.small(&Descriptor::of("application/json", b"{}"), 100).unwrap(), b"{}");
    assert_eq!(read(&other, b"two").unwrap(), b"two");
    assert!(cloud.keys().contains(&"team one/manifests/rbuild/main".to_owned()), "{:?}", cloud.keys());
    assert_eq!(write(&other, content(&[b"one", b"three"], b"next")).unwrap(), Written { sent: 1, bytes: 5 });
    assert_eq!(other.top().unwrap().as_deref(), Some(b"next".as_slice()));
}

#[test]
fn the_same_again_costs_a_question_until_it_is_to_be_touched() {
    let cloud = Cloud::s3(SECRET, None);
    write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap();
    cloud.forget_asked();
    assert_eq!(write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap(), Written::default());
    assert_eq!(cloud.asked().len(), 2, "one for each name");
    cloud.age(Duration::from_secs(3700));
    cloud.forget_asked();
    assert_eq!(write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap(), Written::default());
    let copies = |asked: &super::super::fake::Asked| asked.headers.contains_key("x-amz-copy-source");
    assert_eq!(cloud.asked().iter().filter(|asked| copies(asked)).count(), 2, "the layer and the config");
    assert_eq!(read(&bucket(&cloud), b"one").unwrap(), b"one");
    cloud.forget_asked();
    write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap();
    assert_eq!(cloud.asked().len(), 2, "all is young again");
}

#[test]
fn a_large_blob_goes_in_parts_and_a_part_that_fails_is_sent_again() {
    let cloud = Cloud::s3(SECRET, None);
    let large: &'static [u8] = Box::leak((0..(33 << 20) + 7).map(|at: u32| (at >> 8) as u8).collect::<Box<[u8]>>());
    cloud.plan("PUT", "partNumber=2", 1, Fault::Reset);
    cloud.plan("PUT", "partNumber=3", 1, Fault::Status(503, vec![("retry-after", "0")], "<Code>SlowDown</Code>"));
    cloud.plan("POST", "uploadId=", 1, Fault::LoseAnswer);
    assert_eq!(write(&bucket(&cloud), content(&[large], b"m")).unwrap().sent, 2);
    assert_eq!(cloud.count("PUT", "partNumber="), 5);
    cloud.plan("GET", "blobs", 1, Fault::Cut(20 << 20));
    assert!(read(&bucket(&cloud), large).unwrap() == large);
    assert_eq!(cloud.open_uploads(), 0);
    // One that cannot be finished is given up, so that nobody pays for its parts.
    let cloud = Cloud::s3(SECRET, None);
    cloud.plan("PUT", "partNumber=2", 1, Fault::Status(403, vec![], "<Code>AccessDenied</Code>"));
    let error = write(&bucket(&cloud), content(&[large], b"m")).unwrap_err().to_string();
    assert!(error.contains("AccessDenied") && error.contains("s3:PutObject"), "{error}");
    assert_eq!((cloud.open_uploads(), cloud.keys().len()), (0, 0));
    // Success in the status, failure in the document.
    cloud.plan("POST", "uploadId=", 1, Fault::Status(200, vec![], "<Error><Code>InternalError</Code></Error>"));
    let error = write(&bucket(&cloud), content(&[large], b"m")).unwrap_err().to_string();
    assert!(error.contains("InternalError"), "{error}");
}

#[test]
fn failures_that_pass_are_waited_for_and_others_are_told() {
    let cloud = Cloud::s3(SECRET, None);
    for fault in [
        Fault::Status(503, vec![("retry-after", "0")], "<Error><Code>SlowDown</Code></Error>"),
        Fault::Status(500, vec![], "<Error><Code>InternalError</Code></Error>"),
        Fault::Reset,
        Fault::LoseAnswer,
    ] {
        cloud.plan("PUT", "", 1, fault.clone());
        cloud.plan("HEAD", "", 1, fault.clone());
        cloud.plan("GET", "", 1, fault);
    }
    write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap();
    assert_eq!(read(&bucket(&cloud), b"one").unwrap(), b"one");
    cloud.forget_asked();
    cloud.plan("GET", "", 99, Fault::Status(503, vec![], "<Error><Code>SlowDown</Code></Error>"));
    let error = bucket(&cloud).top().unwrap_err().to_string();
    assert!(error.contains("status 503 (SlowDown)"), "{error}");
    assert_eq!(cloud.asked().len(), 6);
    for (status, text) in
        [(400, "<Error><Code>RequestTimeout</Code></Error>"), (409, "<Error><Code>OperationAborted</Code></Error>")]
    {
        let cloud = Cloud::s3(SECRET, None);
        cloud.plan("PUT", "", 2, Fault::Status(status, vec![("retry-after", "0")], text));
        write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap();
        assert_eq!(read(&bucket(&cloud), b"one").unwrap(), b"one");
        cloud.plan("PUT", "", 99, Fault::Status(status, vec![], text));
        let error = write(&bucket(&cloud), content(&[b"two"], b"next")).unwrap_err().to_string();
        assert!(error.contains(&format!("status {status} (")), "{error}");
    }
    // What would be the same again is asked once, and what it says is told.
    let cloud = Cloud::s3(SECRET, None);
    let other = "<Error><Code>InvalidRequest</Code><Message>so not</Message></Error>";
    cloud.plan("PUT", "", 1, Fault::Status(400, vec![], other));
    let error = write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap_err().to_string();
    assert!(error.contains("status 400 (InvalidRequest: so not)"), "{error}");
    assert_eq!(cloud.count("PUT", ""), 1);
}

#[test]
fn what_was_removed_is_written_again_once_it_was_missed() {
    let cloud = Cloud::s3(SECRET, None);
    write(&bucket(&cloud), content(&[b"one", b"two"], b"first")).unwrap();
    cloud.remove(&format!("team one/blobs/{}", Digest::of(b"one")));
    assert_eq!(write(&bucket(&cloud), content(&[b"one", b"two"], b"first")).unwrap(), Written::default());
    let shaken = Content { belief: Belief::Shaken, ..content(&[b"one", b"two"], b"first") };
    assert_eq!(write(&bucket(&cloud), shaken).unwrap(), Written { sent: 1, bytes: 3 });
    assert_eq!(read(&bucket(&cloud), b"one").unwrap(), b"one");
    // Damage need not show in its size.
    cloud.put(&format!("team one/blobs/{}", Digest::of(b"two")), b"tow");
    let missed = Piece { belief: Belief::Shaken, ..piece(b"two") };
    let shaken = Content { belief: Belief::Shaken, layers: vec![piece(b"one"), missed], ..content(&[], b"first") };
    assert_eq!(write(&bucket(&cloud), shaken).unwrap(), Written { sent: 1, bytes: 3 });
    assert_eq!(read(&bucket(&cloud), b"two").unwrap(), b"two");
}

#[test]
fn other_bytes_than_were_promised_are_never_taken() {
    let cloud = Cloud::s3(SECRET, None);
    write(&bucket(&cloud), content(&[b"one"], b"first")).unwrap();
    cloud.plan("GET", "blobs", 2, Fault::Corrupt);
    assert!(read(&bucket(&cloud), b"one").is_err());
    let error = bucket(&cloud).small(&Descriptor::of("application/json", b"{}"), 100).unwrap_err();
    assert!(error.in_full().contains("digest"), "{}", error.in_full());
    // What has another size was cut by somebody, and is written anew.
    let key = format!("team one/blobs/{}", Digest::of(b"one"));
    cloud.put(&key, b"on");
    assert_eq!(write(&bucket(&cloud), content(&[b"one"], b"second")).unwrap(), Written { sent: 1, bytes: 3 });
    assert_eq!(cloud.content(&key).as_deref(), Some(b"one".as_slice()));
    // What is written is not what it should be: no name is given to it.
    let wrong = Piece { descriptor: Descriptor::of(OCI_LAYER_ZSTD, b"four"), ..piece(b"five") };
    let wrong = Content { layers: vec![wrong], ..content(&[], b"third") };
    assert!(write(&bucket(&cloud), wrong).is_err());
    assert_eq!(bucket(&cloud).top().unwrap().as_deref(), Some(b"second".as_slice()));
    // A blob that is gone.
    cloud.remove(&key);
    assert!(read(&bucket(&cloud), b"one").unwrap_err().to_string().contains("NoSuchKey"));
}

#[test]
fn refusals_say_what_can_be_done() {
    let cloud = Cloud::s3("another", None);
    let says = |place: BucketPlace| Bucket::new(quick_client(), place).top().unwrap_err().to_string();
    let text = says(place(&cloud));
    assert!(text.contains("SignatureDoesNotMatch: said & done") && text.contains("keys are not"), "{text}");
    assert!(!text.contains(SECRET), "{text}");
    let cloud = Cloud::s3(SECRET, None);
    let text = says(BucketPlace { bucket: "other".into(), ..place(&cloud) });
    assert!(text.contains("NoSuchBucket") && text.contains("s3://other/team one/manifests/rbuild/app"), "{text}");
    cloud.plan("GET", "", 1, Fault::Status(301, vec![("x-amz-bucket-region", "us-west-9"), ("location", "/x")], ""));
    assert!(says(place(&cloud)).contains("region=us-west-9"));
    assert_eq!(cloud.count("GET", "/x"), 0, "a redirect is not followed");
    let none =
        BucketPlace { keys: None, variables: Variables::new([("AWS_EC2_METADATA_DISABLED", "true")]), ..place(&cloud) };
    assert!(says(none).contains("AWS_ACCESS_KEY_ID"));
    let nowhere = BucketPlace { region: None, endpoint: None, ..place(&cloud) };
    assert!(says(nowhere).contains("AWS_REGION"));
}

/// A service that gives keys, in the place of Amazon's own.
fn giving(answers: &[(&'static str, &'static str, &'static str)]) -> Cloud {
    let cloud = Cloud::s3("", None);
    for (method, path, text) in answers {
        cloud.plan(method, path, 99, Fault::Status(200, vec![], text));
    }
    cloud
}

const GIVEN: &str = r#"{"Code":"Success","AccessKeyId":"AKIDTEST","SecretAccessKey":"secret/key+","Token":"session=","Expiration":"2999-01-01T00:00:00Z"}"#;

#[test]
fn keys_come_from_where_amazons_tools_take_them() {
    let cloud = Cloud::s3(SECRET, Some("session="));
    let session = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", "session=")];
    let top = |variables: &[(&str, &str)]| {
        let variables = Variables::new(variables.iter().copied());
        Bucket::new(quick_client(), BucketPlace { keys: None, variables, ..place(&cloud) }).top()
    };
    assert_eq!(top(&session).unwrap(), None);
    let roles = "/latest/meta-data/iam/security-credentials/";
    // What is planned first wins: the longer path has to.
    let machine = giving(&[
        ("PUT", "/latest/api/token", "metadata-token"),
        ("GET", "/latest/meta-data/iam/security-credentials/role", GIVEN),
        ("GET", roles, "role\n"),
    ]);
    assert_eq!(top(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &machine.url())]).unwrap(), None);
    let asked = machine.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[1..].iter().all(|asked| asked.headers["x-aws-ec2-metadata-token"] == "metadata-token"));
    let container = giving(&[("GET", "/keys", GIVEN)]);
    let address = format!("{}/keys", container.url());
    let named =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", address.as_str()), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod")];
    assert_eq!(top(&named).unwrap(), None);
    assert_eq!(container.asked()[0].headers["authorization"], "pod");
    let elsewhere = top(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://keys.example/")]).unwrap_err().to_string();
    assert!(elsewhere.contains("plain http"), "{elsewhere}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "signed/by+me\n").unwrap();
    let sts = giving(&[(
        "POST",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fci&RoleSessionName=rbuild&WebIdentityToken=signed%2Fby%2Bme",
        "<R><Credentials><AccessKeyId>AKIDTEST</AccessKeyId><SecretAccessKey>secret/key+</SecretAccessKey>\
         <SessionToken>session=</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></R>",
    )]);
    let identity = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.path().to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/ci"),
        ("AWS_ENDPOINT_URL_STS", &sts.url()),
    ];
    assert_eq!(top(&identity).unwrap(), None);
    assert_eq!(sts.asked().len(), 1);
}

#[test]
fn keys_that_end_soon_are_asked_for_again() {
    let cloud = Cloud::s3(SECRET, Some("session="));
    let ending = r#"{"AccessKeyId":"AKIDTEST","SecretAccessKey":"secret/key+","Token":"session=","Expiration":"2001-01-01T00:00:00Z"}"#;
    let asked = AtomicUsize::new(0);
    let container = giving(&[("GET", "/keys", ending)]);
    let address = format!("{}/keys", container.url());
    let variables = Variables::new([("AWS_CONTAINER_CREDENTIALS_FULL_URI", address.as_str())]);
    let bucket = Bucket::new(quick_client(), BucketPlace { keys: None, variables, ..place(&cloud) });
    for _ in 0..2 {
        bucket.top().unwrap();
        assert_eq!(container.asked().len(), asked.fetch_add(1, Ordering::SeqCst) + 1);
    }
    // What has ended is of no use, whoever does not give new ones.
    container.plan_first("GET", "/keys", Fault::Status(403, vec![], ""));
    assert!(bucket.top().unwrap_err().to_string().contains("gives no keys"));
}

#[test]
fn keys_that_are_still_good_are_used_while_there_are_no_new_ones() {
    let cloud = Cloud::s3(SECRET, Some("session="));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let soon = crate::image::time::rfc3339(i64::try_from(now).unwrap() + 200, None);
    let ending = format!(
        r#"{{"AccessKeyId":"AKIDTEST","SecretAccessKey":"secret/key+","Token":"session=","Expiration":"{soon}"}}"#
    );
    let container = giving(&[]);
    container.plan("GET", "/keys", 1, Fault::Status(200, vec![], Box::leak(ending.into_boxed_str())));
    container.plan("GET", "/keys", 99, Fault::Status(403, vec![], ""));
    let address = format!("{}/keys", container.url());
    let variables = Variables::new([("AWS_CONTAINER_CREDENTIALS_FULL_URI", address.as_str())]);
    let bucket = Bucket::new(quick_client(), BucketPlace { keys: None, variables, ..place(&cloud) });
    for _ in 0..5 {
        bucket.top().unwrap();
    }
    assert_eq!(container.asked().len(), 2, "new ones are not asked for at every turn");
}
