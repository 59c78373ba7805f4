use super::*;

#[test]
fn git_references_are_told_from_paths_and_urls() {
    for text in [
        "https://github.com/a/b.git",
        "https://github.com/a/b.git#v1:sub",
        "http://host/b.git?ref=x",
        "git://host/b",
        "ssh://git@host/b",
        "git@github.com:a/b",
        "user_1@host:b.git#x",
    ] {
        assert!(is_git(text), "{text}");
    }
    for text in [
        "https://host/b.tar.gz",
        "https://x.git",
        "github.com/a/b.git",
        "a/b.git",
        "./git@host:x",
        "a@b",
        "ftp://h/b.git",
        "x@a/b:c",
    ] {
        assert!(!is_git(text), "{text}");
    }
}

fn read(text: &str) -> String {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let text = text.replace("COMMIT", commit);
    match GitReference::parse_context(&text).expect("it is a git reference") {
        Err(error) => format!("error: {error}"),
        Ok(reference) => {
            let mut out = reference.remote;
            let mut add = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    out.push_str(&format!(" {name}={}", value.replace(commit, "COMMIT")));
                }
            };
            add("name", reference.name);
            add("dir", Some(reference.directory).filter(|directory| !directory.is_empty()));
            add("commit", reference.commit);
            add("keep", reference.keep_git_dir.map(|keep| keep.to_string()));
            add("submodules", (reference.submodules == Submodules::Leave).then(|| "no".to_owned()));
            add("times", (reference.times == Some(GitTimes::Commit)).then(|| "commit".to_owned()));
            add("by", (reference.fetch_by == FetchBy::Commit).then(|| "commit".to_owned()));
            out
        }
    }
}

#[test]
fn fragments_and_queries_say_what_is_wanted() {
    for (text, expected) in [
        ("https://h/a.git", "https://h/a.git"),
        ("https://h/a.git#", "https://h/a.git"),
        ("https://h/a.git#main", "https://h/a.git name=main"),
        ("https://h/a.git#:sub/dir", "https://h/a.git dir=sub/dir"),
        ("https://h/a.git#feature/x:/sub//dir/./", "https://h/a.git name=feature/x dir=sub/dir"),
        ("https://h/a.git#a%2Fb:c%20d", "https://h/a.git name=a/b dir=c d"),
        ("github.com/a/b#v1", "https://github.com/a/b name=v1"),
        ("git@h:a/b#v1:d", "git@h:a/b name=v1 dir=d"),
        ("git@h:a/b.git?branch=x", "git@h:a/b.git name=refs/heads/x"),
        ("https://h/a.git?ref=x&subdir=d", "https://h/a.git name=x dir=d"),
        ("https://h/a.git?ref=x#x", "https://h/a.git name=x"),
        ("https://h/a.git?tag=v1", "https://h/a.git name=refs/tags/v1"),
        ("https://h/a.git?tag=refs/tags/v1", "https://h/a.git name=refs/tags/v1"),
        ("https://h/a.git?branch=x&keep-git-dir", "https://h/a.git name=refs/heads/x keep=true"),
        ("https://h/a.git?keep-git-dir=0&submodules=false", "https://h/a.git keep=false submodules=no"),
        ("https://h/a.git?submodules", "https://h/a.git"),
        ("https://h/a.git?commit=COMMIT", "https://h/a.git name=COMMIT commit=COMMIT"),
        ("https://h/a.git?checksum=0123456&ref=x", "https://h/a.git name=x commit=0123456"),
        ("https://h/a.git?ref=x&commit=COMMIT&fetch-by-commit", "https://h/a.git name=x commit=COMMIT by=commit"),
        ("https://h/a.git?mtime=commit", "https://h/a.git times=commit"),
        ("https://h/a.git?mtime=checkout", "https://h/a.git"),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (text, expected) in [
        ("https://h/a.git?x=y", "unexpected query \"x\""),
        ("https://h/a.git?ref=", "query \"ref\" has no value"),
        ("https://h/a.git?ref", "query \"ref\" has no value"),
        ("https://h/a.git?ref=a&ref=b", "query \"ref\" has multiple values"),
        ("https://h/a.git?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
        ("https://h/a.git?subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
        ("https://h/a.git?tag=a&branch=b", "branch conflicts with tag"),
        ("https://h/a.git?branch=a#b", "ref conflicts: \"b\" vs \"refs/heads/a\""),
        ("https://h/a.git?keep-git-dir=maybe", "invalid keep-git-dir value: \"maybe\""),
        ("https://h/a.git?mtime=now", "invalid mtime value: \"now\""),
        ("https://h/a.git?commit=xyz", "invalid checksum value: \"xyz\""),
        ("https://h/a.git?commit=COMMIT&checksum=0123456", "checksum conflicts: \"COMMIT\" vs \"0123456\""),
    ] {
        let expected = expected.replace("COMMIT", "0123456789abcdef0123456789abcdef01234567");
        assert_eq!(read(text), format!("error: {expected}"), "{text}");
    }
}

#[test]
fn hostile_names_directories_and_hosts_never_reach_git() {
    for text in [
        "https://h/a.git#--upload-pack=touch",
        "https://h/a.git?ref=-x",
        "https://h/a.git#a..b",
        "https://h/a.git#x@{1}",
        "https://h/a.git?ref=a%0Ab",
        "https://h/a.git#main:../../..",
        "https://h/a.git#main:a/../../b",
        "https://h/a.git#main:.git/hooks",
        "https://h/a.git?subdir=..%2F..",
        "ssh://-oProxyCommand=touch/a",
        "ssh://git@-oProxyCommand=touch/a",
        "-x@host:a",
        "git://h/a b",
    ] {
        let result = GitReference::parse(text).expect("it is a git reference");
        assert!(result.is_err(), "{text}: {result:?}");
    }
}

#[test]
fn flags_have_to_agree_with_the_query() {
    let mut reference = GitReference::parse("https://h/a.git?keep-git-dir=false").unwrap().unwrap();
    assert!(reference.set_keep_git_dir(false).is_ok());
    assert!(reference.set_keep_git_dir(true).is_err());
    let commit = "0123456789abcdef0123456789abcdef01234567";
    reference.set_commit(commit).unwrap();
    assert_eq!(reference.name.as_deref(), Some(commit));
    assert!(reference.set_commit("1111111").is_err());
}

#[test]
fn passwords_are_not_shown() {
    let shown = |text: &str| GitReference::parse(text).unwrap().unwrap().to_string();
    assert_eq!(shown("https://u:p@h/a.git?keep-git-dir#x:d"), "https://h/a.git?keep-git-dir#x:d");
    assert_eq!(shown("https://token@h/a.git"), "https://h/a.git");
    assert_eq!(shown("ssh://git@h/a"), "ssh://git@h/a");
    assert_eq!(shown("git@h:a/b.git"), "git@h:a/b.git");
    assert_eq!(without_passwords("ADD https://u:p@h/a.git /x@y"), "ADD https://h/a.git /x@y");
}
