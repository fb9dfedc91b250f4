//! `fumehood policy explain`: what would hold for a run of whoever asks, as the daemon says it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use fumehood_client::proto::v1::policy_question::About;
use fumehood_client::proto::v1::{
    ExplainPolicyRequest, ExplainPolicyResponse, InlinePolicy, PolicyAnswer, PolicyCommand, PolicyLine, PolicyQuestion,
    PolicyReason, PolicyReference, policy_reference::Reference,
};
use fumehood_policies::PolicyFile;
use serde_json::{Value, json};

use super::told::{VALUE_CHARS, counted, from, safe};
use super::{FOUND, Place, source};
use crate::args::ExplainArgs;
use crate::failure::Failure;
use crate::json::hex;
use crate::start::{self, Connected};
use crate::{print, table, tell};

/// How the places of built-in policies begin.
const BUILT_IN: &str = "built-in policy ";

/// Asks the daemon, and shows what it says.
pub async fn explain(args: ExplainArgs) -> Result<u8, Failure> {
    let place = Place::of(args.workspace.as_deref())?;
    let policy = match args.policy.as_deref() {
        None => None,
        Some(path) => match reference(path)? {
            Ok(reference) => Some(PolicyReference {
                reference: Some(reference),
            }),
            Err(wrong) => {
                tell(&safe(&wrong));
                return Ok(FOUND);
            }
        },
    };
    let request = ExplainPolicyRequest {
        policy,
        workspace: place.workspace.clone().into(),
        home: place.home.clone().into(),
        questions: questions(&args, &place)?,
        labels: args.labels.iter().cloned().collect(),
    };
    let asks = !request.questions.is_empty();
    let Connected { client, .. } = start::connect(&args.connect).await?;
    let told = match client.explain_policy(request).await {
        Ok(told) => told,
        Err(wrong @ fumehood_client::Error::Invalid { .. }) => {
            tell(&safe(&wrong.to_string()));
            return Ok(FOUND);
        }
        Err(error) => return Err(error.into()),
    };
    print(&match args.json {
        true => format!("{}\n", json_of(&told)),
        false => safe(&text(&told, asks, args.all)),
    })?;
    Ok(0)
}

/// A file is sent along, as a run does; what is wrong with it by itself is told here, all of it.
fn reference(value: &Path) -> Result<Result<Reference, String>, Failure> {
    let shown = value.to_string_lossy();
    if !source::is_file(&shown) {
        let name = value.to_str().ok_or(Failure::PolicyName)?;
        return Ok(Ok(Reference::Name(name.to_owned())));
    }
    let toml = match source::read(value) {
        Ok(toml) => toml,
        Err(wrong) => return Ok(Err(wrong.to_string())),
    };
    Ok(match PolicyFile::parse(&toml, &shown) {
        Err(errors) => Err(errors.to_string()),
        Ok(_) => Ok(Reference::Inline(InlinePolicy {
            toml: toml.into(),
            origin: shown.into_owned(),
            ..InlinePolicy::default()
        })),
    })
}

fn questions(args: &ExplainArgs, place: &Place) -> Result<Vec<PolicyQuestion>, Failure> {
    type Ask = fn(String) -> About;
    let kinds: [(&[PathBuf], Ask); 3] = [
        (&args.read, About::Read),
        (&args.write, About::Write),
        (&args.execute, About::Execute),
    ];
    let mut all = Vec::new();
    for (paths, ask) in kinds {
        for path in paths {
            // Where a variable leads is the daemon's to say: the command may run as another user.
            all.push(ask(match path.to_str() {
                Some(text) if text.starts_with("${") => text.to_owned(),
                _ => place.absolute(path)?,
            }));
        }
    }
    all.extend(
        args.host
            .iter()
            .map(|(host, port)| About::Host(format!("{host}:{port}"))),
    );
    all.extend(args.env.iter().cloned().map(About::Environment));
    if !args.command.is_empty() {
        let argv = args.command.iter().map(|word| word.as_bytes().to_vec().into());
        all.push(About::Command(PolicyCommand { argv: argv.collect() }));
    }
    let question = |about| PolicyQuestion { about: Some(about) };
    Ok(all.into_iter().map(question).collect())
}

fn text(told: &ExplainPolicyResponse, asks: bool, all: bool) -> String {
    let ExplainPolicyResponse {
        name: _,
        digest,
        layers,
        not_given,
        refusal,
        lines,
        answers,
    } = told;
    let digest = hex(digest);
    let mut text = match layers.as_slice() {
        [] => "no policy\n".to_owned(),
        some => format!(
            "policy {} (digest {})\n",
            some.join(" under "),
            digest.get(..12).unwrap_or(&digest)
        ),
    };
    if let Some(refusal) = refusal {
        text += &format!("a run would be refused ({}): {}\n", refusal.reason, refusal.message);
        if !layers.is_empty() {
            text += "what follows would hold without what it is refused for\n";
        }
    }
    for words in not_given {
        text += &format!("not given: {words}\n");
    }
    let several = layers.len() > 1;
    if asks {
        for one in answers {
            text += &answer(one, several);
        }
        return text;
    }
    if several {
        text += "a run gets what all of these give; each line below says whose it is\n";
    }
    match all {
        true => text += &("\n".to_owned() + &every_line(lines, several)),
        false => text += &stated(lines, layers),
    }
    text
}

/// A value that fits a line.
fn short(value: &str) -> String {
    match value.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

/// Every value with where it comes from.
fn every_line(lines: &[PolicyLine], several: bool) -> String {
    let layer = |layer: &str| several.then(|| layer.to_owned());
    let row = |cells: [&str; 3], of: Option<String>| cells.map(str::to_owned).into_iter().chain(of).collect();
    let mut rows: Vec<Vec<String>> = vec![row(["KEY", "VALUE", "FROM"], layer("POLICY"))];
    let mut last = ("", "");
    for line in lines {
        // A list says its key once.
        let this = (line.key.as_str(), line.layer.as_str());
        let key = if this == last { "" } else { this.0 };
        last = this;
        rows.push(row(
            [key, &short(&line.value), &from(&line.place, line.by_default)],
            layer(&line.layer),
        ));
    }
    table::lines(&rows).join("\n") + "\n"
}

/// What files state, by section and in it by layer; and how much else there is.
fn stated(lines: &[PolicyLine], layers: &[String]) -> String {
    let mut sections: Vec<(&str, Vec<&PolicyLine>)> = Vec::new();
    // A line of a built-in policy that several layers take in is one.
    let mut folded: BTreeMap<&str, BTreeSet<[&str; 3]>> = BTreeMap::new();
    for line in lines {
        let section = line.key.split_once('.').map_or("", |(section, _)| section);
        let at = sections.iter().position(|(known, _)| *known == section);
        let at = at.unwrap_or_else(|| {
            sections.push((section, Vec::new()));
            sections.len() - 1
        });
        let same = [line.key.as_str(), &line.value, &line.place];
        if let Some(rest) = line.place.strip_prefix(BUILT_IN) {
            let name = rest.split(':').next().unwrap_or(rest);
            folded.entry(name).or_default().insert(same);
        } else if line.by_default {
            folded.entry("").or_default().insert(same);
        } else if let Some((_, own)) = sections.get_mut(at) {
            own.push(line);
        }
    }
    sections.retain(|(_, own)| !own.is_empty());
    let mut text = String::new();
    for (section, own) in &sections {
        text += &match *section {
            "" => "\n".to_owned(),
            section => format!("\n[{section}]\n"),
        };
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut last = ("", "");
        for line in own {
            let key = line.key.split_once('.').map_or(line.key.as_str(), |(_, key)| key);
            let this = (key, line.layer.as_str());
            let named = |part: &str| if this == last { String::new() } else { part.to_owned() };
            let mut row = vec![named(key), short(&line.value), line.place.clone()];
            if layers.len() > 1 {
                row.insert(0, named(&line.layer));
            }
            rows.push(row);
            last = this;
        }
        for row in table::lines(&rows) {
            text += &format!("  {row}\n");
        }
    }
    if !folded.is_empty() {
        let words = folded.iter().rev().map(|(name, of)| match *name {
            "" => format!("{} that no file states", counted(of.len(), "line")),
            name => format!("{} of the built-in policy {name}", counted(of.len(), "line")),
        });
        let words: Vec<_> = words.collect();
        text += &format!("\nand {}: --all shows them\n", words.join(", "));
    }
    text
}

/// One question, what is decided and why.
fn answer(answer: &PolicyAnswer, several: bool) -> String {
    let mut text = format!("{}: {}\n", answer.question, answer.verdict);
    let row = |reason: &PolicyReason| {
        let mut row = vec![reason.text.clone()];
        if several {
            row.insert(0, reason.layer.clone());
        }
        if let Some(line) = &reason.line {
            // Of a rule its reason is said already.
            row.push(match line.key.starts_with("commands.rules") {
                true => line.key.clone(),
                false => format!("{} = {}", line.key, line.value),
            });
            row.push(from(&line.place, line.by_default));
        }
        row
    };
    for line in table::lines(&answer.reasons.iter().map(row).collect::<Vec<_>>()) {
        text += &format!("  {line}\n");
    }
    for help in &answer.help {
        text += &format!("  to allow it: {help}\n");
    }
    text
}

fn json_of(told: &ExplainPolicyResponse) -> Value {
    let line = |line: &PolicyLine| {
        json!({
            "key": line.key, "value": line.value, "place": line.place, "by_default": line.by_default, "layer": line.layer,
        })
    };
    let reason = |reason: &PolicyReason| {
        json!({
            "verdict": reason.verdict, "text": reason.text, "layer": reason.layer, "line": reason.line.as_ref().map(line),
        })
    };
    let answer = |answer: &PolicyAnswer| {
        json!({
            "question": answer.question, "verdict": answer.verdict, "help": answer.help,
            "reasons": answer.reasons.iter().map(reason).collect::<Vec<_>>(),
        })
    };
    let refusal = told.refusal.as_ref();
    json!({
        "policy": { "name": told.name, "digest": hex(&told.digest) },
        "layers": told.layers,
        "not_given": told.not_given,
        "refusal": refusal.map(|refusal| json!({ "reason": refusal.reason, "message": refusal.message })),
        "lines": told.lines.iter().map(line).collect::<Vec<_>>(),
        "answers": told.answers.iter().map(answer).collect::<Vec<_>>(),
    })
}
