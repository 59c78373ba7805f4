//! `rbuild login` and `logout` against a registry with a password.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::harness::{Rbuild, Run, finish};
use crate::registry_server::{Access, PASSWORD, Registry, USER_NAME, missing_programs};

fn login(rbuild: &Rbuild, registry: &str, input: &str, arguments: &[&str]) -> Run {
    let mut command = rbuild.command([&["login"], arguments, &[registry]].concat());
    let mut child = command.stdin(Stdio::piped()).spawn().expect("start rbuild login");
    // It may refuse its command line before it reads.
    drop(child.stdin.take().expect("its standard input").write_all(input.as_bytes()));
    finish(child)
}

fn push(rbuild: &Rbuild, registry: &Registry) -> Run {
    let context = rbuild.context("pushed").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    rbuild.build(&context, &["-t", &registry.name("team/app:v1"), "--push"])
}

for_each_user! {
    fn who_logs_in_can_push_until_the_logout(rbuild) {
        if let Some(program) = missing_programs(Access::Password) {
            skip!("{program} is not installed");
        }
        let registry = Registry::start(Access::Password);
        let host = registry.host();
        let file = rbuild.path("home/.docker/config.json");
        let with_input = ["--username", USER_NAME, "--password-stdin"];
        login(&rbuild, &host, "wrong\n", &with_input).failed(1).says(&host).says("does not accept");
        assert!(!file.exists(), "a login that failed left something");
        let run = login(&rbuild, &host, &format!("{PASSWORD}\n"), &with_input);
        let run = run.succeeded().does_not_say(PASSWORD);
        assert_eq!(run.stdout, "Login Succeeded\n");
        let mode = fs::metadata(&file).expect("the credentials").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(rbuild.run(["login", "--get-login", &host]).succeeded().stdout, format!("{USER_NAME}\n"));
        push(&rbuild, &registry).succeeded();
        let run = rbuild.run(["logout", &host]);
        assert_eq!(run.succeeded().stdout, format!("Removed login credentials for {host}\n"));
        push(&rbuild, &registry).failed(1).says(&format!("rbuild login {host}"));
        assert_eq!(rbuild.run(["logout", &host]).succeeded().stdout, format!("Not logged in to {host}\n"));
        rbuild.run(["login", "--get-login", &host]).failed(1);
    }
}

#[test]
fn a_password_on_the_command_line_is_warned_of() {
    if let Some(program) = missing_programs(Access::Password) {
        skip!("{program} is not installed");
    }
    let (rbuild, registry) = (Rbuild::new(crate::harness::suite_user()), Registry::start(Access::Password));
    let file = rbuild.path("out/auth.json");
    let place = file.to_str().expect("paths of tests are UTF-8");
    let arguments = ["-u", USER_NAME, "-p", PASSWORD, "--authfile", place];
    login(&rbuild, &registry.host(), "", &arguments).succeeded().says("--password-stdin").does_not_say(PASSWORD);
    assert!(fs::read_to_string(&file).expect("the credentials").contains(&registry.host()));
    assert!(!rbuild.path("home/.docker/config.json").exists());
    rbuild.run(["logout", "--all", "--authfile", place]).succeeded();
    assert!(!fs::read_to_string(&file).expect("the credentials").contains(&registry.host()));
}

#[test]
fn a_login_that_cannot_ask_says_how_to_go_on() {
    let rbuild = Rbuild::new(crate::harness::suite_user());
    login(&rbuild, "r.example", "", &[]).failed(2).says("--password-stdin");
    login(&rbuild, "r.example", "pw", &["--password-stdin"]).failed(2).says("--username");
    login(&rbuild, "r.example", "\n", &["-u", "me", "--password-stdin"]).failed(2).says("empty");
    login(&rbuild, "not a registry", "", &[]).failed(2).says("not a registry");
}
