//! The client against the registry in this process (each of its faults), and against a real one.
//!
//! What can go wrong, and the test that shows what then happens (in `pull`, `push`, `early`, `auth`, `places`, `real` and beside the
//! code):
//!
//! | # | fault | when reading | when writing |
//! |---|---|---|---|
//! | 1 | nobody listens | `a_host_that_refuses_connections_is_named_soon` | the same way in |
//! | 2 | reset before or within the headers | `failures_that_pass_are_waited_for` | `an_upload_that_fails_starts_again` |
//! | 3 | cut at byte 0, 1, half, last but one | `a_blob_that_is_cut_goes_on_where_it_was_cut` | `a_chunk_that_was_cut_goes_on_where_the_registry_has_it` |
//! | 4 | cut for ever | `a_blob_that_is_cut_for_ever_is_given_up` | `an_upload_that_fails_for_ever_is_given_up` |
//! | 5 | longer or shorter than its size, other bytes | `other_bytes_than_the_descriptor_says_are_refused` | `content_that_is_not_what_its_descriptor_says_is_never_sent_whole` |
//! | 6 | slow, or standing still | `a_transfer_that_stands_still_is_cut_and_a_slow_one_is_not` | `an_answer_to_a_push_that_does_not_come_is_not_waited_for_for_ever` |
//! | 7 | 429, 503 with Retry-After in seconds, as a date, absent, huge | `failures_that_pass_are_waited_for`, `retry_after_is_waited_for_up_to_a_limit` | `an_upload_that_fails_starts_again` |
//! | 8 | 500, 502, 503, 504, 408, once and always | `failures_that_do_not_pass_are_reported_after_five_retries` | `an_upload_that_fails_for_ever_is_given_up` |
//! | 9 | 401 in the middle | `a_token_that_expires_in_the_middle_of_a_pull_is_replaced` | `a_token_that_expires_in_the_middle_of_a_push_is_replaced` |
//! | 10 | 401 for ever | `a_registry_that_refuses_every_token_is_not_asked_for_ever` | `a_token_that_expires_in_the_middle_of_a_push_is_replaced` |
//! | 11 | 403, 404 | `refusals_are_final_and_typed` | `an_image_without_one_of_its_blobs_gets_no_tag` |
//! | 12 | 416, another range, no ranges | `a_registry_without_ranges_or_with_wrong_ones_is_read_again_from_the_start` | `a_chunked_upload_that_is_gone_starts_again` |
//! | 13 | redirects, in circles, to others, to http | `redirects_are_followed_but_not_for_ever`, `a_token_stays_with_the_registry` | `redirects_of_a_push_without_end_are_an_error`, `an_upload_to_another_host_carries_no_token` |
//! | 14 | a digest in the header that is not the body's, or none | `a_manifest_that_is_not_what_was_asked_for_is_refused`, `a_tag_is_resolved_to_what_it_stands_for` | `an_answer_of_a_push_may_leave_the_digest_out_but_not_give_another` |
//! | 15 | an upload without Location, with a relative one, with a query | | `an_upload_without_a_place_to_go_is_an_error`, `an_upload_goes_where_the_registry_says_however_it_says_it` |
//! | 16 | an upload that the registry forgot, an answer that was lost | | `a_chunked_upload_that_is_gone_starts_again`, `an_upload_whose_answer_was_lost_is_not_sent_again` |
//! | 17 | large requests refused | | `a_registry_that_refuses_large_requests_gets_small_ones` |
//! | 18 | a mount that is answered 202, 403, 404, 405 | | `an_image_is_pushed_with_its_tags_last`, `a_registry_that_cannot_mount_gets_the_bytes` |
//! | 19 | blobs that the registry forgets for a moment | | `a_manifest_is_put_again_while_the_registry_forgets_its_blobs` |
//! | 20 | OCI's types refused | | `a_registry_that_does_not_know_oci_says_so_once` |
//! | 21 | pages in HTML, control characters, endless answers and headers | `an_endless_manifest_is_refused`, `a_header_without_end_is_refused` | `a_page_of_a_proxy_is_no_message` |
//! | 22 | a token server that fails, redirects, lies | `a_token_server_that_fails_for_a_moment_is_asked_again` and those after it | the same way in |
//! | 23 | a mirror with any of these | `a_mirror_that_does_not_help_costs_one_question_and_no_build` | never asked |
//! | 24 | TLS of an unknown authority, for another name, with a client's certificate | `a_real_registry_over_tls_of_a_private_authority` | the same way in |
//! | 25 | proxies, IPv6 | `a_registry_behind_a_proxy_is_reached_through_it`, `a_registry_on_an_ipv6_address_is_reached` | the same way in |
//! | 26 | any of these while a blob is sent that is still made | | `what_cannot_be_sent_early_is_pushed_as_any_other` |

mod auth;
mod compose;
mod conformance;
mod copy;
mod early;
mod places;
mod pull;
mod push;
mod real;

use std::time::Duration;

use super::credentials::Credentials;
use super::fake::{Auth, Registry};
use super::{Client, ClientOptions, RetryPolicy};
use crate::image::reference::Reference;

/// As patient as in real life, but without the waiting.
fn quick() -> RetryPolicy {
    RetryPolicy {
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(5),
        longest_retry_after: Duration::from_millis(300),
        stall: Duration::from_millis(400),
        commit: Duration::from_secs(5),
        connect: Duration::from_secs(2),
        ..RetryPolicy::default()
    }
}

fn options() -> ClientOptions {
    ClientOptions { retry: quick(), certificate_directories: Vec::new(), ..ClientOptions::default() }
}

fn client() -> Client {
    Client::new(options())
}

fn client_of(user: &str, password: &str, registry: &Registry) -> Client {
    let json = format!(r#"{{"auths":{{"{}":{{"username":"{user}","password":"{password}"}}}}}}"#, registry.host());
    Client::new(ClientOptions { credentials: Credentials::from_json("config.json", &json), ..options() })
}

fn open_registry() -> Registry {
    Registry::start(Auth::Open)
}

fn reference(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}

/// The table above names tests, which get other names.
#[test]
fn the_table_of_faults_names_tests_that_exist() {
    let files = [include_str!("auth.rs"), include_str!("places.rs"), include_str!("pull.rs"), include_str!("push.rs")];
    let all = [&files[..], &[include_str!("early.rs"), include_str!("real.rs")]].concat().join("\n");
    let rows = include_str!("mod.rs").lines().filter(|line| line.starts_with("//! | "));
    let mut named = 0;
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        assert!(all.contains(&format!("fn {name}()")), "{name}");
        named += 1;
    }
    assert!(named > 40, "{named}");
}
