//! What policies that stand over each other decide together, and which of them says what.
//!
//! A request gets what *all* of its layers give, so the strictest of their own answers is the answer of the whole. What
//! [`narrowed_by`](Policy::narrowed_by) makes of them is asked all the same, and decides: where paths with wildcards meet it gives less than
//! each layer does, and a sandbox's own loopback it counts as a part of the machine's network.

use crate::allows::{Access, Facts};
use crate::explain::{Answer, Reason};
use crate::file::{Expected, Subject};
use crate::model::Policy;
use crate::resolve::Resolved;
use crate::statement::Statements;

/// One of the policies that stand over each other.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// What people call it: `shop (.fumehood.toml, untrusted)`.
    pub name: &'a str,
    /// The policy by itself.
    pub resolved: &'a Resolved,
}

/// Policies that stand over each other, the lowest first.
#[derive(Clone, Debug)]
pub struct Stack<'a> {
    layers: Vec<Layer<'a>>,
    /// What is left of the first under all others. No line of it is anybody's.
    whole: Resolved,
}

/// What all layers decide together about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayeredAnswer {
    /// What was asked: `read ${home}/.ssh/id_rsa`.
    pub question: String,
    /// What would be decided.
    pub verdict: Expected,
    /// Why: of each layer that is as strict as the verdict what it says, the lowest layer first.
    pub reasons: Vec<LayerReason>,
    /// What would allow it: all of what is said, each in its layer. Empty where it is allowed.
    pub help: Vec<String>,
}

/// One reason, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerReason {
    /// The layer's name; empty: it is none's alone.
    pub layer: String,
    /// What it says.
    pub reason: Reason,
}

impl<'a> Stack<'a> {
    /// Some layers, the lowest first, with what the first [comes to](Policy::narrowed_by) under the others.
    pub fn new(layers: Vec<Layer<'a>>, policy: Policy) -> Stack<'a> {
        let origins = Statements::default();
        Stack {
            layers,
            whole: Resolved { policy, origins },
        }
    }

    /// What is decided about a thing that an expectation can be about.
    pub fn explain(&self, subject: &Subject, facts: Facts<'_>) -> LayeredAnswer {
        self.ask(|policy| policy.explain(subject, facts))
    }

    /// What is decided about an argument vector.
    pub fn explain_command(&self, argv: &[Vec<u8>]) -> LayeredAnswer {
        self.ask(|policy| policy.explain_command(argv))
    }

    /// What is decided about an access.
    pub fn explain_access(&self, access: Access<'_>, facts: Facts<'_>) -> LayeredAnswer {
        self.ask(|policy| policy.explain_access(access, facts))
    }

    fn ask(&self, ask: impl Fn(&Resolved) -> Answer) -> LayeredAnswer {
        let Answer { question, verdict, .. } = ask(&self.whole);
        let answers: Vec<(&str, Answer)> = self
            .layers
            .iter()
            .map(|layer| (layer.name, ask(layer.resolved)))
            .collect();
        let decides = answers
            .iter()
            .any(|(_, answer)| strictness(answer.verdict) >= strictness(verdict));
        let mut told = LayeredAnswer {
            question,
            verdict,
            reasons: Vec::new(),
            help: Vec::new(),
        };
        for (layer, answer) in answers {
            let reason = |reason: Reason| LayerReason {
                layer: layer.to_owned(),
                reason,
            };
            match strictness(answer.verdict).cmp(&strictness(verdict)) {
                // Its grants are beside the point: another layer decides.
                std::cmp::Ordering::Less if decides => {}
                std::cmp::Ordering::Greater => told.reasons.push(reason(Reason {
                    verdict,
                    text: "gives the machine's network: the sandbox's own loopback counts as a part of it".to_owned(),
                    line: None,
                })),
                _ => {
                    let given = answer.reasons.iter().any(|reason| reason.verdict == answer.verdict);
                    let silent = (!given).then(|| Reason {
                        verdict: answer.verdict,
                        text: "no line gives it".to_owned(),
                        line: None,
                    });
                    told.reasons.extend(silent.map(reason));
                    told.reasons.extend(answer.reasons.into_iter().map(reason));
                    told.help
                        .extend(answer.help.into_iter().map(|help| match self.layers.len() {
                            1 => help,
                            _ => format!("in {layer}: {help}"),
                        }));
                }
            }
        }
        if !decides {
            told.reasons.push(LayerReason {
                layer: String::new(),
                reason: Reason {
                    verdict,
                    text: "each layer gives it, and not both together: of paths with wildcards, or that begin with different variables, none \
                           surely lies in the other"
                        .to_owned(),
                    line: None,
                },
            });
            told.help
                .push("write the path in each layer in the same way".to_owned());
        }
        told
    }
}

fn strictness(verdict: Expected) -> u8 {
    match verdict {
        Expected::Allow => 0,
        Expected::Ask => 1,
        Expected::Deny => 2,
    }
}
