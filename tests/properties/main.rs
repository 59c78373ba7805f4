//! Properties that hold for every input of the parts that read text from outside.
//!
//! The checks are those of the fuzz targets (`fuzz/src/lib.rs`); here they get input that is mostly valid, made from the
//! words of each grammar, and the seeds, among them everything that fuzzing has ever found.

#[path = "../../fuzz/src/lib.rs"]
mod checks;
mod inputs;

use std::path::Path;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_dockerfile_is_printed_without_loss_and_planned_in_order(text in inputs::dockerfile()) {
        checks::dockerfile(text.as_bytes());
    }

    #[test]
    fn ignore_rules_agree_with_a_second_implementation(text in inputs::ignore_file()) {
        checks::ignore_file(text.as_bytes());
    }

    #[test]
    fn unusual_ignore_rules_agree_with_a_walk(text in inputs::unusual_ignore_file()) {
        checks::ignore_file(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_an_ignore_file_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        checks::ignore_file(&bytes);
    }

    #[test]
    fn a_reference_keeps_its_meaning_in_each_form(text in inputs::reference()) {
        checks::reference(text.as_bytes());
    }

    #[test]
    fn packages_are_sound_and_the_same_again(data in inputs::packages()) {
        checks::sbom(&data);
    }

    #[test]
    fn the_order_of_mount_options_means_nothing(text in inputs::mount()) {
        checks::mount(text.as_bytes());
    }
}

/// Runs a check over the seeds of its target.
fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(&directory).expect("the seeds").map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", directory.display());
    for path in paths {
        let data = std::fs::read(&path).expect("the seed can be read");
        assert!(std::panic::catch_unwind(|| check(&data)).is_ok(), "the check fails for {}", path.display());
    }
}

#[test]
fn the_seeds_pass() {
    replay("dockerfile", checks::dockerfile);
    replay("ignore_file", checks::ignore_file);
    replay("reference", checks::reference);
    replay("mount", checks::mount);
    replay("sbom", checks::sbom);
}
