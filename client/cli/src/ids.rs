//! Runs and sessions by part of their id: its beginning or end, where that stands for one only.

use fumehood_client::proto::v1::{ListRequest, ListSessionsRequest};
use fumehood_client::{Client, Error};

use crate::audit::cut;
use crate::failure::Failure;
use crate::render::safe;

/// Fewest characters of a run's id that stand for the whole.
const PART_CHARS: usize = 6;
/// Runs that are named when part of an id stands for more than one.
const RUNS_NAMED: usize = 4;
/// Characters of what was asked for that a message shows.
const SHOWN_CHARS: usize = 60;
/// Runs asked for at once.
const PAGE: u32 = 500;

/// How well a recorded id is what was asked for; none: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Its beginning or end.
    Part,
    /// The id, without the peer's name behind it.
    Id,
    /// All of it.
    Whole,
}

fn fit(recorded: &str, wanted: &str) -> Option<Fit> {
    let id = recorded.split_once('@').map_or(recorded, |(id, _)| id);
    let ends = id.ends_with(wanted) || wanted.contains('@') && recorded.ends_with(wanted);
    if recorded == wanted {
        Some(Fit::Whole)
    } else if id == wanted {
        Some(Fit::Id)
    } else {
        let long_enough = wanted.chars().count() >= PART_CHARS;
        (long_enough && (recorded.starts_with(wanted) || ends)).then_some(Fit::Part)
    }
}

/// Looks for the one run, or session, that is meant.
pub struct Search {
    what: &'static str,
    wanted: String,
    best: Option<Fit>,
    found: Vec<String>,
}

impl Search {
    /// For the id of `what`, or part of one.
    pub fn new(what: &'static str, wanted: String) -> Self {
        Self {
            what,
            wanted,
            best: None,
            found: Vec::new(),
        }
    }

    /// Looks at an id; true when it is the very one, and no other needs a look.
    pub fn look_at(&mut self, id: &str) -> bool {
        let fit = fit(id, &self.wanted);
        if fit > self.best {
            self.best = fit;
            self.found.clear();
        }
        if fit.is_some()
            && fit == self.best
            && self.found.len() <= RUNS_NAMED
            && !self.found.iter().any(|one| one == id)
        {
            self.found.push(id.to_owned());
        }
        fit == Some(Fit::Whole)
    }

    /// The id of the one run that is meant, or why there is none.
    pub fn found(self) -> Result<String, String> {
        let (what, shown) = (self.what, cut(&safe(&self.wanted), SHOWN_CHARS));
        match self.found.as_slice() {
            [one] => Ok(one.clone()),
            [] if self.wanted.chars().count() < PART_CHARS => Err(format!(
                "no {what} has the id {shown}; part of an id must have {PART_CHARS} characters"
            )),
            [] => Err(format!(
                "no {what} has an id that is {shown}, or begins or ends with it"
            )),
            many => {
                let names: Vec<_> = many.iter().take(RUNS_NAMED).map(|id| safe(id)).collect();
                let more = if many.len() > RUNS_NAMED { " and more" } else { "" };
                Err(format!(
                    "{shown} stands for more than one {what}: {}{more}",
                    names.join(", ")
                ))
            }
        }
    }
}

/// The id of the daemon's run that is meant.
///
/// # Errors
/// [`Failure::NoRun`] where none is, or more than one.
pub async fn resolve(client: &Client, wanted: &str) -> Result<String, Failure> {
    match client.get(wanted).await {
        Ok(run) => return Ok(run.run_id),
        Err(Error::NotFound { .. } | Error::Invalid { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut search = Search::new("run", wanted.to_owned());
    let mut request = ListRequest {
        page_size: PAGE,
        ..ListRequest::default()
    };
    loop {
        let page = client.list(request.clone()).await?;
        for run in &page.runs {
            search.look_at(&run.run_id);
        }
        if page.next_page_token.is_empty() {
            return search.found().map_err(Failure::NoRun);
        }
        request.page_token = page.next_page_token;
    }
}

/// The id of the daemon's session that is meant.
///
/// # Errors
/// [`Failure::NoSession`] where none is, or more than one.
pub async fn resolve_session(client: &Client, wanted: &str) -> Result<String, Failure> {
    let mut search = Search::new("session", wanted.to_owned());
    let mut request = ListSessionsRequest {
        page_size: PAGE,
        ..ListSessionsRequest::default()
    };
    loop {
        let page = client.list_sessions(request.clone()).await?;
        if page.sessions.iter().any(|session| search.look_at(&session.session_id)) || page.next_page_token.is_empty() {
            return search.found().map_err(Failure::NoSession);
        }
        request.page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "01a20627-101c-77f4-8db5-b7f87798714a";
    const OTHER: &str = "01a20627-6775-73ee-aa08-d90c9e304796@uid:1001";

    #[test]
    fn an_id_fits_in_whole_or_by_its_beginning_or_end() {
        for (recorded, wanted, expected) in [
            (ONE, ONE, Some(Fit::Whole)),
            (OTHER, OTHER, Some(Fit::Whole)),
            (OTHER, "01a20627-6775-73ee-aa08-d90c9e304796", Some(Fit::Id)),
            (ONE, "01a206", Some(Fit::Part)),
            (ONE, "98714a", Some(Fit::Part)),
            (OTHER, "304796", Some(Fit::Part)),
            (OTHER, "d90c9e304796@uid:1001", Some(Fit::Part)),
            (ONE, "8714a", None),
            (ONE, "101c-77f4", None),
            (OTHER, "uid:1001", None),
            ("b1@uid:7", "b1", Some(Fit::Id)),
            ("b1", "b", None),
        ] {
            assert_eq!(fit(recorded, wanted), expected, "{recorded} {wanted}");
        }
    }
}
