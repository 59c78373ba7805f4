//! Paths against ignore patterns. The goal is 100 ms for 100,000 paths and 100 patterns.

use divan::Bencher;
use divan::counter::ItemsCount;
use rbuild::context::ignore::IgnoreRules;

/// Patterns of every kind, of which few match anything: the matcher has to look at all of them.
const PATTERNS: [&str; 20] = [
    "**/node_modules",
    "*.log",
    "**/*.tmp",
    "build/out",
    "docs/**/*.pdf",
    "!docs/index.pdf",
    "**/.git",
    "target/**",
    "src/*/generated",
    "**/test_*",
    "vendor/*/*.md",
    "?uild/cache",
    "**/[Tt]humbs.db",
    "a/b/c/d/e",
    "**/__pycache__/**",
    "*.min.*",
    "!keep/this",
    "packages/**/dist",
    ".env*",
    "**/coverage/*.json",
];

/// A hundred patterns: the ones above, and the same again in other directories.
fn rules() -> IgnoreRules {
    let patterns = (0..5).flat_map(|round| {
        PATTERNS.iter().map(move |pattern| match (round, pattern.strip_prefix('!')) {
            (0, _) => (*pattern).to_owned(),
            (_, Some(pattern)) => format!("!round{round}/{pattern}"),
            (_, None) => format!("round{round}/{pattern}"),
        })
    });
    let text: Vec<String> = patterns.collect();
    assert_eq!(text.len(), 100);
    IgnoreRules::parse(text.join("\n").as_bytes()).expect("valid patterns")
}

/// The directories of a project with their files, 100,000 in all.
fn tree() -> Vec<(String, Vec<String>)> {
    let directories = (0..2_000).map(|at| format!("packages/part{}/src/module{}", at / 40, at % 40));
    directories
        .map(|directory| {
            let files = (0..50).map(|at| format!("{directory}/file_number_{at}.ts")).collect();
            (directory, files)
        })
        .collect()
}

/// Directory by directory, as a walk over a context asks.
#[divan::bench]
fn a_hundred_thousand_paths_as_a_walk(bencher: Bencher<'_, '_>) {
    let (rules, tree) = (rules(), tree());
    bencher.counter(ItemsCount::new(100_000u32)).bench(|| {
        let excluded = tree.iter().map(|(directory, files)| {
            let scope = rules.scope(directory.as_bytes());
            files.iter().filter(|file| scope.excludes(file.as_bytes())).count()
        });
        excluded.sum::<usize>()
    });
}

/// Each path by itself, its parents included.
#[divan::bench]
fn a_hundred_thousand_paths_one_by_one(bencher: Bencher<'_, '_>) {
    let (rules, tree) = (rules(), tree());
    let paths: Vec<&String> = tree.iter().flat_map(|(_, files)| files).collect();
    bencher
        .counter(ItemsCount::new(100_000u32))
        .bench(|| paths.iter().filter(|path| rules.excludes(path.as_bytes())).count());
}
