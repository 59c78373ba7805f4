//! Lists the tags of a repository.

use ureq::http::Method;

use super::Client;
use super::answer::Answer;
use super::auth::Access;
use super::error::RegistryError;
use super::http::Request;
use super::registries::Naming;
use super::session::refusal;
use super::url::Url;
use crate::image::reference::Reference;

/// The largest page of a list.
const PAGE_LIMIT: u64 = 16 << 20;

/// Pages that are asked for: a registry that leads in circles shall not be followed for ever.
const MOST_PAGES: usize = 10_000;

#[derive(serde::Deserialize)]
struct Page {
    /// `null` where there are none, of some registries.
    tags: Option<Vec<String>>,
}

impl Client {
    /// The tags of the repository that a name is in, in the registry's order.
    ///
    /// # Errors
    /// The registry cannot be reached, refuses, or lists what is no tag.
    pub fn tags(&self, repository: &Reference) -> Result<Vec<String>, RegistryError> {
        self.read_from_sources(repository, Naming::Tag, None, |source| self.tags_at(source))
    }

    fn tags_at(&self, repository: &Reference) -> Result<Vec<String>, RegistryError> {
        let shown = repository.name();
        let mut next = Some(self.address(repository, "tags/list")?);
        let mut tags = Vec::new();
        for _ in 0..MOST_PAGES {
            let Some(url) = next else { return Ok(tags) };
            let request = Request::new(Method::GET, url);
            let answer = self.send(repository, &Access::pull(repository.repository()), &request)?;
            if answer.status != 200 {
                return Err(refusal(answer, repository, &shown));
            }
            next = next_page(&answer)?;
            let unreadable = answer.invalid("the list of tags cannot be read");
            let page: Page = serde_json::from_slice(&answer.bytes(&shown, PAGE_LIMIT)?).map_err(|_| unreadable)?;
            tags.extend(page.tags.unwrap_or_default());
        }
        Err(RegistryError::TooLarge { reference: format!("the list of tags of {shown}"), limit: MOST_PAGES as u64 })
    }
}

/// Where a list goes on (RFC 5988): `</v2/a/tags/list?last=b&n=100>; rel="next"`, at the same registry.
pub(super) fn next_page(answer: &Answer) -> Result<Option<Url>, RegistryError> {
    let target = answer.headers("link").find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then_some(target)
    });
    let Some(target) = target else { return Ok(None) };
    let url = answer.url.join(target).filter(|url| url.same_origin(&answer.url));
    url.map(Some).ok_or_else(|| answer.invalid("the list goes on at another host"))
}
