use super::*;

fn facts() -> Facts {
    let arguments = [
        ("build-arg:GREETING", "hello"),
        ("build-arg:http_proxy", "http://me:hidden@proxy"),
        ("build-arg:REPO", "https://me:hidden@host/x"),
        ("label:l", "v"),
        ("target", "all"),
    ];
    let digest = Some(("sha256", "00ff".to_owned()));
    Facts {
        dockerfile: "Dockerfile".to_owned(),
        arguments: arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        secrets: vec![Wanted { id: "token".to_owned(), need: Need::Required }],
        agents: vec![Wanted { id: "default".to_owned(), need: Need::Optional }],
        materials: vec![Material { uri: "pkg:docker/busybox@1?platform=linux%2Famd64".to_owned(), digest }],
        builder: Some("linux/amd64".parse().unwrap()),
        steps: vec![
            Step { operation: json!({ "a": "s3cret" }), inputs: Vec::new(), lines: Some((1, 1)), layers: Vec::new() },
            Step {
                operation: json!({ "b": 1 }),
                inputs: vec![0],
                lines: Some((2, 4)),
                layers: vec![Descriptor::of("layer", b"x")],
            },
        ],
        source: "FROM busybox\nADD https://me:hidden@host/x s3cret /\n".to_owned(),
        times: ["2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:05Z".to_owned()],
        invocation: Some("abc".to_owned()),
        redaction: Redaction::of([b"s3cret".as_slice()]),
        ..Facts::default()
    }
}

fn said(mode: Mode, version: Version, facts: &Facts) -> Value {
    attestation(&Options { mode, version, ..Options::default() }, facts).predicate
}

#[test]
fn min_says_nothing_of_what_the_command_line_gave() {
    let value = said(Mode::Min, Version::V1, &facts());
    let request = &value["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(*request, json!({ "frontend": "dockerfile.v0", "args": { "target": "all" } }));
    assert_eq!(value["buildDefinition"]["internalParameters"], json!({ "builderPlatform": "linux/amd64" }));
    let metadata = &value["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"], json!({ "request": false, "resolvedDependencies": true }));
    assert_eq!(metadata["buildkit_metadata"], json!({}));
    assert_eq!(metadata["buildkit_hermetic"], true);
    assert_eq!(metadata["invocationId"], "abc");
    assert_eq!(value["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"], "00ff");
}

#[test]
fn max_says_arguments_steps_and_source_but_no_credential() {
    let mut facts = facts();
    facts.locals = vec!["context".to_owned()];
    facts.network = Network::Reachable;
    let value = said(Mode::Max, Version::V1, &facts);
    let request = &value["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(
        request["args"],
        json!({
            "build-arg:GREETING": "hello", "build-arg:REPO": "https://xxxxx:xxxxx@host/x",
            "label:l": "v", "target": "all",
        })
    );
    assert_eq!(request["secrets"], json!([{ "id": "token" }]));
    assert_eq!(request["ssh"], json!([{ "id": "default", "optional": true }]));
    assert_eq!(request["locals"], json!([{ "name": "context" }]));
    let steps = &value["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
    assert_eq!(steps[1], json!({ "id": "step1", "op": { "b": 1 }, "inputs": ["step0:0"] }));
    let metadata = &value["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"], json!({ "request": true, "resolvedDependencies": false }));
    assert!(metadata.get("buildkit_hermetic").is_none(), "{metadata}");
    let source = &metadata["buildkit_metadata"]["source"];
    let data = STANDARD.decode(source["infos"][0]["data"].as_str().unwrap()).unwrap();
    assert_eq!(data, b"FROM busybox\nADD https://xxxxx:xxxxx@host/x xxxxx /\n");
    let range = &source["locations"]["step1"]["locations"][0]["ranges"][0];
    assert_eq!(*range, json!({ "start": { "line": 2 }, "end": { "line": 4 } }));
    assert_eq!(metadata["buildkit_metadata"]["layers"]["step1:0"][0][0]["mediaType"], "layer");
    let text = value.to_string();
    assert!(!text.contains("hidden") && !text.contains("s3cret"), "{text}");
}

#[test]
fn the_older_form_has_the_same_facts() {
    let options = Options { version: Version::V02, claim: Claim::Reproducible, ..Options::default() };
    let attestation = attestation(&options, &facts());
    assert_eq!(attestation.predicate_type, "https://slsa.dev/provenance/v0.2");
    let value = attestation.predicate;
    assert_eq!(value["buildType"], BUILD_TYPE_V02);
    assert_eq!(value["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert_eq!(value["invocation"]["parameters"]["args"]["target"], "all");
    assert_eq!(value["metadata"]["reproducible"], true);
    assert_eq!(value["metadata"]["completeness"]["environment"], true);
    assert_eq!(value["materials"][0]["uri"], "pkg:docker/busybox@1?platform=linux%2Famd64");
    let min = for_metadata(&Options { mode: Mode::Min, ..options }, &facts());
    assert!(min.get("metadata").is_none() && min.get("buildConfig").is_none(), "{min}");
    assert_eq!(min["materials"], value["materials"]);
}

#[test]
fn a_context_that_was_fetched_is_the_source_of_the_configuration() {
    let digest = Some(("sha1", "11".to_owned()));
    let uri = "https://token@host/x.git#main".to_owned();
    let facts = Facts { context: Some(Material { uri, digest }), invocation: None, ..facts() };
    let value = said(Mode::Min, Version::V1, &facts);
    assert_eq!(
        value["buildDefinition"]["externalParameters"]["configSource"],
        json!({ "uri": "https://xxxxx@host/x.git#main", "digest": { "sha1": "11" }, "path": "Dockerfile" })
    );
    assert!(value["runDetails"]["metadata"].get("invocationId").is_none());
}
