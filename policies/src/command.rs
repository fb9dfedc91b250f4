//! Command rules: allow, ask or deny by program and arguments.
//!
//! # What they are
//!
//! They guide and document; **the sandbox is the boundary**. A rule is about what a command line says. A program can be copied under
//! another name, an interpreter can be told to do anything, a script can be written and run: no rule sees that, and the sandbox holds
//! all the same.
//!
//! # What they mean
//!
//! - The line is read as a shell would read it ([`read`]), into simple commands and what could not be read.
//! - A simple command gets the strictest verdict of all the rules that match it; `default` when none does. The order of rules means nothing.
//! - A command that only starts another one (`sh -c`, `env`, `nice`, `timeout`, see [`SimpleCommand::transparent`]) does not get `default`:
//!   what it starts does. Rules that name it match it.
//! - What could not be read gets `unreadable`.
//! - The line gets the strictest of all these; one in which no command is found gets `default`.
//! - A word that is not known before it runs (`$x`, `*.c`, `$(…)`) matches every pattern that it could become of rules that ask or deny, and none of
//!   rules that allow.
//! - A rule that allows applies to a command of which every word is known, that writes no file by redirection (`/dev/null` is none), and
//!   sets no variable but those that change only how output looks (`LANG`, `NO_COLOR`, `RUST_BACKTRACE` and their like). An option by
//!   which a program that reads writes a file or runs a script (`sort -o`, `sed -i`, `find -delete`, `git diff --output`) it has to name, in `args`
//!   or `has`. One by which such a program runs another (`rg --pre`, `git diff --ext-diff`, `tar --to-command`) makes the line unreadable.
//! - Under a ceiling a policy carries the rules of both ([`Commands`]): each set is judged by itself, and the strictest holds.
//! - Without the section `[commands]` everything is allowed and nothing is read.

mod arithmetic;
mod builtins;
mod callbacks;
mod cover;
mod doors;
mod input;
mod layers;
mod narrow;
mod options;
mod pieces;
mod read;
mod rules;
mod script;
mod shell;
mod unwrap;
mod values;
mod variables;
mod word;

pub use cover::stays_in;
pub use input::reads_program_from_input;
pub use layers::Commands;
pub use narrow::NotNarrow;
pub(crate) use narrow::runs_anything;
pub use read::{Assignment, Reading, Redirect, SimpleCommand, Unreadable, read, read_line, read_with};
pub use rules::{ArgPattern, CommandRules, Finding, Judgement, NeverMatching, Pattern, Rule, Verdict};
pub use script::stands_alone;
pub use values::Origin;
pub use word::Word;
