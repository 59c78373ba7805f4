//! Secrets that a command prints are seen by nobody: not on the screen, not in a log, not in the image.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Files, Rbuild};
use crate::leftovers::on_busybox;

const TOKEN: &str = "s3cr3t-8d1f0a";
const KEY: &str = "-----BEGIN KEY-----\nQUJDREVGR0hJSktM\nTU5PUFFSU1RVVldY\n-----END KEY-----\n";

/// A RUN that prints a file and a variable in every way that it can, and then fails.
const TALKATIVE: &str = "RUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=key \
    echo it is $TOKEN >&2; sleep 0.1; echo the token is $TOKEN.; cat /run/secrets/key; \
    printf 'in pieces s3cr'; sleep 0.1; printf '3t-'; sleep 0.1; printf '8d1f0a.\\n'; \
    sed 's/^/line: /' /run/secrets/key; printf \"the end is $TOKEN\"; exit 7\n";

/// The context, and the flags that give it its secrets.
fn talkative(rbuild: &Rbuild) -> Result<(Files, [String; 2]), String> {
    let context = on_busybox(rbuild, "talkative", TALKATIVE)?;
    let files = rbuild.context("keys").file("token", TOKEN).file("key", KEY);
    let flag = |id: &str| format!("--secret=id={id},src={}", files.directory.join(id).display());
    Ok((context, [flag("token"), flag("key")]))
}

#[track_caller]
fn assert_masked(text: &str, what: &str) {
    for secret in [TOKEN, "QUJDREVGR0hJSktM", "TU5PUFFSU1RVVldY", "BEGIN KEY"] {
        assert!(!text.contains(secret), "{what} shows {secret}:\n{text}");
    }
    for line in ["the token is ***.", "it is ***", "in pieces ***.", "line: ***", "the end is ***"] {
        assert!(text.contains(line), "{what} does not show {line:?}:\n{text}");
    }
}

/// What a `--progress rawjson` says of a command's output.
fn output_of(json: &str) -> String {
    let mut text = Vec::new();
    for line in json.lines().filter(|line| line.starts_with('{')) {
        let status: serde_json::Value = serde_json::from_str(line).expect("rawjson is JSON");
        for log in status["logs"].as_array().into_iter().flatten() {
            text.extend(STANDARD.decode(log["data"].as_str().expect("data is text")).expect("data is base64"));
        }
    }
    String::from_utf8(text).expect("the command writes UTF-8")
}

for_each_user! {
    fn what_a_command_says_of_its_secrets_is_masked(rbuild) {
        let (context, secrets) = match talkative(&rbuild) {
            Ok(made) => made,
            Err(reason) => skip!("{reason}"),
        };
        let build = |mode: &str| rbuild.build(&context, &["--progress", mode, &secrets[0], &secrets[1]]).failed(7);
        let plain = build("plain");
        assert_masked(&plain.stderr, "plain progress");
        assert_masked(&output_of(&build("rawjson").stderr), "rawjson progress");
        // After the steps the failed one's last lines are said again.
        let (_, report) = plain.stderr.split_once("ERROR: ").expect("a report of the failure");
        assert!(report.contains("in pieces ***."), "{report}");
        let logs: Vec<_> = fs::read_dir(rbuild.store().join("logs")).expect("list the logs").flatten().collect();
        let [log] = logs.as_slice() else { panic!("one log is kept: {logs:?}") };
        let log = fs::read_to_string(log.path()).expect("read the log");
        assert_masked(&log, "the log that is kept");
        // Neither keys, records and logs nor trees.
        let found = Command::new("grep").args(["-rlF", TOKEN]).arg(rbuild.store()).output().expect("run grep");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "files of the store hold the secret");
    }
}
