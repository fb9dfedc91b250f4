//! The text of a script as its simple commands.
//!
//! Tokens and grammar are those of `brush-parser`; words are cut into pieces in `pieces.rs`. The crate's grammar recurses and
//! goes back without memory, so nesting is counted over its tokens, and unbalanced text refused, before it is called.

use brush_parser::ast::{
    self, AssignmentName, AssignmentValue, BinaryPredicate, Command, CommandPrefixOrSuffixItem as Item,
    CompoundCommand, CompoundList, ExtendedTestExpr, IoFileRedirectKind, IoFileRedirectTarget, IoRedirect,
    UnaryPredicate,
};
use brush_parser::{ParserOptions, Token, TokenizerOptions, parse_tokens, uncached_tokenize_str};

use super::read::{Assignment, Context, Dialect, Input, Reading, Redirect};
use super::values::{Mode, Origin};
use super::word::Word;

/// Compound commands in each other: each level about doubles what a wrong script costs.
const MAX_COMPOUND: usize = 8;
/// The tokenizer recurses at each of these.
const MAX_OPENINGS: usize = 96;

/// Extended patterns are off as they are in `bash -c`: with them `!(rm x)` would be a pattern, without it runs `rm`.
fn options() -> ParserOptions {
    ParserOptions {
        enable_extended_globbing: false,
        ..ParserOptions::default()
    }
}

/// Whether a script is whole: what is written behind it is not read as part of it, as the body of a here-document or the end of a string would be.
pub fn stands_alone(script: &str) -> bool {
    const MARK: &str = "fumehood-mark";
    let options = options();
    let marked = format!("{script}\n{MARK}\n");
    let Ok(tokens) = tokens(&marked, &options) else {
        return false;
    };
    if assigns_parentheses(&tokens) {
        return false;
    }
    let Ok(program) = parse(&tokens, &options) else {
        return false;
    };
    let last = program.complete_commands.last().and_then(|list| list.0.last());
    let Some(ast::CompoundListItem(last, _)) = last else {
        return false;
    };
    match &last.first.seq[..] {
        [Command::Simple(simple)] => {
            last.additional.is_empty()
                && simple.prefix.is_none()
                && simple.suffix.is_none()
                && simple.word_or_name.as_ref().is_some_and(|word| word.value == MARK)
        }
        _ => false,
    }
}

/// Whether `()` follows an assignment, as in `a=b () { :; }`: a function to the grammar here, to bash an error behind which it reads nothing.
fn assigns_parentheses(tokens: &[Token]) -> bool {
    let is = |token: &Token, text: &str| matches!(token, Token::Operator(operator, _) if operator == text);
    tokens.iter().enumerate().any(|(at, token)| {
        let Token::Word(word, span) = token else { return false };
        let [_, open, close, ..] = &tokens[at..] else {
            return false;
        };
        let begins = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let name = word.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let behind = word.bytes().next().filter(|byte| begins(*byte)).and(name);
        let assigns = behind.is_some_and(|at| ["=", "+=", "["].iter().any(|sign| word[at..].starts_with(sign)));
        let list = word.ends_with('=') && span.end.index == open.location().start.index;
        let named = at
            .checked_sub(1)
            .is_some_and(|before| tokens[before].to_str() == "function");
        assigns && is(open, "(") && is(close, ")") && !list && !named
    })
}

impl Reading {
    /// Reads a script.
    pub(super) fn script(&mut self, context: &Context, text: &str) {
        let first = self.begins();
        if !self.may_parse(context, text) {
            return;
        }
        if first {
            self.first_via = context.via.len();
        }
        if text.chars().any(misleads) {
            // Read on all the same: what it hides may be forbidden.
            self.cannot(text, "a control character, which shows other than shells read it");
        }
        let options = options();
        let tokens = match tokens(text, &options) {
            Ok(tokens) => tokens,
            Err(why) => return self.cannot(text, why),
        };
        match parse(&tokens, &options) {
            Ok(program) => {
                for list in &program.complete_commands {
                    for item in &list.0 {
                        let maps = if first { self.new_maps(item) } else { Vec::new() };
                        self.list_item(context, item);
                        maps.into_iter().for_each(|name| self.values.map(name));
                    }
                }
            }
            Err(why) => {
                self.cannot(text, why);
                self.guess(context, &tokens);
            }
        }
    }

    /// The words of a script that has no grammar, cut where commands may begin: so that what is denied is not only asked about
    /// where it stands in a construct that is not known here.
    fn guess(&mut self, context: &Context, tokens: &[Token]) {
        let mut words: Vec<Word> = Vec::new();
        let mut file = false;
        for token in tokens {
            match token {
                Token::Operator(operator, _) if operator.starts_with(['<', '>']) => file = true,
                Token::Operator(..) => {
                    self.command(
                        context,
                        std::mem::take(&mut words),
                        Vec::new(),
                        Vec::new(),
                        Input::Unknown,
                    );
                }
                Token::Word(..) if file => file = false,
                Token::Word(text, _)
                    if words.is_empty() && (RESERVED.contains(&text.as_str()) || text.contains('=')) => {}
                Token::Word(text, _) => words.extend(self.expand(context, text)),
            }
        }
        self.command(context, words, Vec::new(), Vec::new(), Input::Unknown);
    }

    fn list(&mut self, context: &Context, list: &CompoundList) {
        for item in &list.0 {
            self.list_item(context, item);
        }
    }

    fn list_item(&mut self, context: &Context, ast::CompoundListItem(and_or, _): &ast::CompoundListItem) {
        let pipelines = and_or.additional.iter().map(|next| match next {
            ast::AndOr::And(pipeline) | ast::AndOr::Or(pipeline) => pipeline,
        });
        for pipeline in std::iter::once(&and_or.first).chain(pipelines) {
            for command in &pipeline.seq {
                self.shell_command(context, command);
            }
        }
    }

    /// Associative arrays that a command makes which is surely executed by this same shell, under names that are new.
    fn new_maps(&self, ast::CompoundListItem(and_or, separator): &ast::CompoundListItem) -> Vec<String> {
        let ([Command::Simple(simple)], true, ast::SeparatorOperator::Sequence) =
            (&and_or.first.seq[..], and_or.additional.is_empty(), separator)
        else {
            return Vec::new();
        };
        let words = simple
            .suffix
            .iter()
            .flat_map(|suffix| &suffix.0)
            .map(|item| match item {
                Item::Word(word) => Some(word.value.clone()),
                Item::AssignmentWord(assignment, _) => match &assignment.name {
                    AssignmentName::VariableName(name) => Some(name.clone()),
                    AssignmentName::ArrayElementName(..) => None,
                },
                _ => None,
            });
        let words: Option<Vec<String>> = words.collect();
        let program = simple.word_or_name.as_ref().map(|word| word.value.as_str());
        match words.as_deref() {
            Some([option, names @ ..])
                if simple.prefix.is_none() && matches!(program, Some("declare" | "typeset")) && option == "-A" =>
            {
                names.iter().filter(|name| self.values.is_new(name)).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    fn shell_command(&mut self, context: &Context, command: &Command) {
        match command {
            Command::Simple(simple) => self.simple(context, simple),
            Command::Compound(compound, redirects) => {
                self.redirect_list(context, redirects.as_ref());
                self.compound(context, compound);
            }
            Command::Function(function) => {
                self.redirect_list(context, function.body.1.as_ref());
                self.functions.push(function.fname.value.clone());
                // Its parameters are those of whoever calls it.
                let inner = Context {
                    positional: None,
                    ..context.inside(&format!("{}()", function.fname.value))
                };
                self.compound(&inner, &function.body.0);
            }
            Command::ExtendedTest(test, redirects) => {
                self.redirect_list(context, redirects.as_ref());
                if context.dialect == Dialect::Posix {
                    self.cannot("[[", "`[[` is not a test in every sh");
                }
                self.test(context, &test.expr);
            }
        }
    }

    fn compound(&mut self, context: &Context, compound: &CompoundCommand) {
        match compound {
            CompoundCommand::Arithmetic(arithmetic) => self.arithmetic(context, &arithmetic.expr.value),
            CompoundCommand::ArithmeticForClause(clause) => {
                for part in [&clause.initializer, &clause.condition, &clause.updater]
                    .into_iter()
                    .flatten()
                {
                    self.arithmetic(context, &part.value);
                }
                self.list(context, &clause.body.list);
            }
            CompoundCommand::BraceGroup(group) => self.list(context, &group.list),
            CompoundCommand::Subshell(subshell) => self.list(context, &subshell.list),
            CompoundCommand::ForClause(clause) => {
                let values: Vec<Assignment> = clause
                    .values
                    .iter()
                    .flatten()
                    .flat_map(|value| self.expand(context, &value.value))
                    .map(|value| Assignment {
                        name: clause.variable_name.clone(),
                        value,
                    })
                    .collect();
                self.look_at_values(&values);
                if clause.values.is_none() {
                    self.values.hold(&clause.variable_name, &Origin::of("@"));
                }
                self.look_at_name(&clause.variable_name);
                self.changed_environment |= !super::read::is_local(&clause.variable_name);
                self.list(context, &clause.body.list);
            }
            CompoundCommand::CaseClause(clause) => {
                self.expand(context, &clause.value.value);
                for case in &clause.cases {
                    for pattern in &case.patterns {
                        self.expand(context, &pattern.value);
                    }
                    if let Some(list) = &case.cmd {
                        self.list(context, list);
                    }
                }
            }
            CompoundCommand::IfClause(clause) => {
                self.list(context, &clause.condition);
                self.list(context, &clause.then);
                for other in clause.elses.iter().flatten() {
                    if let Some(condition) = &other.condition {
                        self.list(context, condition);
                    }
                    self.list(context, &other.body);
                }
            }
            CompoundCommand::WhileClause(clause) | CompoundCommand::UntilClause(clause) => {
                self.list(context, &clause.0);
                self.list(context, &clause.1.list);
            }
            CompoundCommand::Coprocess(coprocess) => {
                if let Some(name) = coprocess
                    .name
                    .as_ref()
                    .filter(|name| !super::read::is_local(&name.value))
                {
                    self.sets(&name.value);
                }
                self.shell_command(&context.inside("coproc"), &coprocess.body);
            }
        }
    }

    fn arithmetic(&mut self, context: &Context, text: &str) {
        if context.dialect == Dialect::Posix {
            self.cannot(text, "`((` is not arithmetic in every sh");
        }
        self.index(context, text);
    }

    /// An arithmetic text, or an index.
    fn index(&mut self, context: &Context, text: &str) {
        self.look_at_index(text);
        self.evaluates(context, text);
    }

    /// Quoted, a substitution in arithmetic or in an index is run all the same, for such a text is read twice.
    pub(super) fn look_at_index(&mut self, text: &str) {
        self.look_at_arithmetic(text);
        if ["\\$", "\\`", "$'"].iter().any(|quoted| text.contains(quoted)) {
            self.cannot(text, "a quoted substitution in arithmetic, which may be run");
        }
    }

    fn test(&mut self, context: &Context, expr: &ExtendedTestExpr) {
        match expr {
            ExtendedTestExpr::And(a, b) | ExtendedTestExpr::Or(a, b) => {
                self.test(context, a);
                self.test(context, b);
            }
            ExtendedTestExpr::Not(inner) | ExtendedTestExpr::Parenthesized(inner) => self.test(context, inner),
            ExtendedTestExpr::UnaryTest(
                UnaryPredicate::ShellVariableIsSetAndAssigned | UnaryPredicate::ShellVariableIsSetAndNameRef,
                word,
            ) => self.index(context, &word.value),
            ExtendedTestExpr::UnaryTest(_, word) => {
                self.look_at_index(&word.value);
                self.substitutions(context, &word.value);
            }
            ExtendedTestExpr::BinaryTest(operator, a, b) => {
                for word in [a, b] {
                    // An operand of `-eq` is arithmetic, of `=~` and `==` a pattern.
                    if matches!(
                        operator,
                        BinaryPredicate::ArithmeticEqualTo
                            | BinaryPredicate::ArithmeticNotEqualTo
                            | BinaryPredicate::ArithmeticLessThan
                            | BinaryPredicate::ArithmeticLessThanOrEqualTo
                            | BinaryPredicate::ArithmeticGreaterThan
                            | BinaryPredicate::ArithmeticGreaterThanOrEqualTo
                    ) {
                        self.look_at_arithmetic(&word.value);
                        if !word.value.contains(['\'', '"', '\\']) {
                            self.evaluates(context, &word.value);
                        } else if let Some(word) = self.pieces(context, &word.value) {
                            self.evaluates_word(context, &word, Mode::Arithmetic);
                        }
                    } else {
                        self.substitutions(context, &word.value);
                    }
                }
            }
        }
    }

    fn simple(&mut self, context: &Context, simple: &ast::SimpleCommand) {
        let mut assignments = Vec::new();
        let mut redirects = Vec::new();
        let mut words = Vec::new();
        let mut input = Input::Unknown;
        let items = simple.prefix.iter().flat_map(|prefix| &prefix.0);
        let redirected = items
            .chain(simple.suffix.iter().flat_map(|suffix| &suffix.0))
            .any(|item| matches!(item, Item::IoRedirect(_)));
        for item in simple.prefix.iter().flat_map(|prefix| &prefix.0) {
            match item {
                Item::AssignmentWord(assignment, _) => self.assignment(context, assignment, &mut assignments),
                other => self.item(context, other, &mut words, &mut redirects, &mut input),
            }
        }
        if let Some(word) = &simple.word_or_name {
            words.extend(self.expand(context, &word.value));
        }
        for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
            self.item(context, item, &mut words, &mut redirects, &mut input);
        }
        // `{fd}>file` is no word to bash: the parser takes it for one, and for the program where it stands first.
        let raw = simple.word_or_name.iter().map(|word| word.value.as_str());
        let behind = simple
            .suffix
            .iter()
            .flat_map(|suffix| &suffix.0)
            .filter_map(|item| match item {
                Item::Word(word) => Some(word.value.as_str()),
                _ => None,
            });
        if redirected && raw.chain(behind).any(names_descriptor) {
            self.cannot(
                simple.to_string(),
                "a redirection to a descriptor that a variable names",
            );
            words.retain(|word| !word.text().is_some_and(names_descriptor));
        }
        // A line of redirections alone opens files and runs nothing.
        self.command(context, words, assignments, redirects, input);
    }

    fn item(
        &mut self,
        context: &Context,
        item: &Item,
        words: &mut Vec<Word>,
        redirects: &mut Vec<Redirect>,
        input: &mut Input,
    ) {
        match item {
            Item::IoRedirect(redirect) => self.redirect(context, redirect, redirects, input),
            Item::Word(word) => words.extend(self.expand(context, &word.value)),
            Item::AssignmentWord(assignment, word) => {
                let from = words.len();
                match &assignment.value {
                    AssignmentValue::Scalar(_) => words.extend(self.expand(context, &word.value)),
                    // `declare a=(…)`
                    AssignmentValue::Array(_) => {
                        let mut values = Vec::new();
                        self.assignment(context, assignment, &mut values);
                        self.look_at_values(&values);
                        words.push(Word::Dynamic {
                            prefix: Vec::new(),
                            suffix: Vec::new(),
                            many: true,
                            origin: Origin::default(),
                        });
                    }
                }
                // To these builtins it stays one word, of which the begin is known.
                let declares = words[..from].first().and_then(Word::text).is_some_and(is_declaration);
                if let (AssignmentName::VariableName(name), [word]) = (&assignment.name, &mut words[from..])
                    && declares
                    && word.bytes().is_none()
                {
                    *word = Word::Dynamic {
                        prefix: format!("{name}=").into_bytes(),
                        suffix: Vec::new(),
                        many: false,
                        origin: word.origin(),
                    };
                }
            }
            Item::ProcessSubstitution(_, subshell) => {
                self.list(&context.inside("<()"), &subshell.list);
                words.push(Word::Dynamic {
                    prefix: b"/dev/fd/".to_vec(),
                    suffix: Vec::new(),
                    many: false,
                    origin: Origin::unknown(),
                });
            }
        }
    }

    fn assignment(&mut self, context: &Context, assignment: &ast::Assignment, into: &mut Vec<Assignment>) {
        let name = match &assignment.name {
            AssignmentName::VariableName(name) => name,
            AssignmentName::ArrayElementName(name, index) => {
                self.look_at_index(index);
                self.evaluates_index(context, name, index);
                self.values.is_array(name);
                name
            }
        };
        let mut add = |value| {
            into.push(Assignment {
                name: name.clone(),
                value,
            });
        };
        match &assignment.value {
            AssignmentValue::Scalar(word) => {
                add(self.expand_one(context, &word.value));
                if assignment.append {
                    self.values.hold(name, &Origin::part_of(name));
                    self.look_at_name(name);
                }
            }
            AssignmentValue::Array(elements) => {
                self.values.is_array(name);
                for (key, value) in elements {
                    if let Some(key) = key {
                        self.evaluates_index(context, name, &key.value);
                    }
                    add(self.expand_one(context, &value.value));
                }
                if elements.is_empty() {
                    add(Word::known(""));
                }
            }
        }
    }

    fn redirect_list(&mut self, context: &Context, list: Option<&ast::RedirectList>) {
        let (mut redirects, mut input) = (Vec::new(), Input::Unknown);
        for redirect in list.iter().flat_map(|list| &list.0) {
            self.redirect(context, redirect, &mut redirects, &mut input);
        }
        // It is what all the commands inside write to.
        if redirects.iter().any(Redirect::changes_something) {
            self.changed_environment = true;
        }
    }

    fn redirect(&mut self, context: &Context, redirect: &IoRedirect, redirects: &mut Vec<Redirect>, input: &mut Input) {
        match redirect {
            IoRedirect::File(fd, kind, target) => {
                let reads = matches!(kind, IoFileRedirectKind::Read | IoFileRedirectKind::DuplicateInput);
                if reads && fd.is_none_or(|fd| fd == 0) {
                    *input = Input::Unknown;
                }
                match target {
                    IoFileRedirectTarget::Filename(word) => redirects.push(Redirect {
                        target: self.expand_one(context, &word.value),
                        writes: !reads,
                    }),
                    IoFileRedirectTarget::Fd(_) => {}
                    IoFileRedirectTarget::ProcessSubstitution(_, subshell) => {
                        self.list(&context.inside("<()"), &subshell.list);
                    }
                    IoFileRedirectTarget::Duplicate(word) => {
                        let target = self.expand_one(context, &word.value);
                        // `>&2` and `>&-` name descriptors, `>&name` a file.
                        let descriptor = target
                            .bytes()
                            .is_some_and(|bytes| bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-'));
                        if !descriptor {
                            redirects.push(Redirect { target, writes: !reads });
                        }
                    }
                }
            }
            IoRedirect::OutputAndError(word, _) => redirects.push(Redirect {
                target: self.expand_one(context, &word.value),
                writes: true,
            }),
            IoRedirect::HereDocument(fd, document) => {
                let text = &document.doc.value;
                let known = !document.requires_expansion || self.here_document(context, text);
                if fd.is_none_or(|fd| fd == 0) {
                    *input = match known {
                        true => Input::Text(text.clone()),
                        false => Input::Unknown,
                    };
                }
            }
            IoRedirect::HereString(fd, word) => {
                let word = self.expand_one(context, &word.value);
                if fd.is_none_or(|fd| fd == 0) {
                    *input = word.text().map_or(Input::Unknown, |text| Input::Text(text.to_owned()));
                }
            }
        }
    }

    /// Whether the body is what will be read, letter by letter.
    fn here_document(&mut self, context: &Context, text: &str) -> bool {
        self.substitutions(context, text);
        !text.contains(['$', '`', '\\'])
    }
}

impl Redirect {
    /// Whether more than a descriptor or `/dev/null` is meant.
    pub(super) fn changes_something(&self) -> bool {
        match self.target.bytes() {
            Some(b"/dev/null" | b"/dev/stdout" | b"/dev/stderr") => false,
            Some(path) => self.writes || path.starts_with(b"/dev/tcp/") || path.starts_with(b"/dev/udp/"),
            None => true,
        }
    }
}

pub(super) fn is_declaration(name: &str) -> bool {
    matches!(name, "export" | "declare" | "typeset" | "local" | "readonly")
}

/// `{name}`
fn names_descriptor(word: &str) -> bool {
    word.strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// Carriage returns, escapes, overrides of the direction of writing and what has no width.
fn misleads(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// After these a command may begin.
const RESERVED: &[&str] = &[
    "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "case", "esac", "for", "select", "in", "{",
    "}", "!", "time", "coproc", "function", "[[", "]]",
];

fn tokens(text: &str, options: &ParserOptions) -> Result<Vec<Token>, String> {
    let openings = text.matches("$(").count() + text.matches("${").count() + text.matches("$[").count();
    if openings + text.matches("<(").count() + text.matches(">(").count() > MAX_OPENINGS {
        return Err(format!("more than {MAX_OPENINGS} substitutions"));
    }
    let tokenizer: TokenizerOptions = options.tokenizer_options();
    uncached_tokenize_str(text, &tokenizer).map_err(|error| format!("not a shell script: {error}"))
}

fn parse(tokens: &[Token], options: &ParserOptions) -> Result<ast::Program, String> {
    if nesting(tokens)? > MAX_COMPOUND {
        return Err(format!("more than {MAX_COMPOUND} compound commands in each other"));
    }
    parse_tokens(tokens, options).map_err(|_| "not understood as a shell script".to_owned())
}

/// How deep compound commands lie in each other, at least.
fn nesting(tokens: &[Token]) -> Result<usize, String> {
    let text = |token: Option<&Token>| match token {
        Some(Token::Operator(text, _) | Token::Word(text, _)) => text.clone(),
        None => String::new(),
    };
    let mut open: Vec<&str> = Vec::new();
    let mut deepest = 0;
    // Whether a reserved word is one here.
    let mut begins = true;
    for (index, token) in tokens.iter().enumerate() {
        let word = match token {
            Token::Operator(word, _) | Token::Word(word, _) => word.as_str(),
        };
        let operator = matches!(token, Token::Operator(..));
        let closes = match word {
            "(" if operator => {
                open.push(")");
                None
            }
            // In `case x in a)` there is none to close.
            ")" if operator => Some(")").filter(|close| open.last() == Some(close)),
            _ if operator || !begins => None,
            "{" => {
                open.push("}");
                None
            }
            "if" => {
                open.push("fi");
                None
            }
            "while" | "until" | "for" | "select" => {
                open.push("done");
                None
            }
            "case" => {
                open.push("esac");
                None
            }
            "[[" | "function" | "coproc" | "!" => None,
            // `fi)` may be the pattern of a case.
            "}" | "fi" | "done" | "esac" => {
                let next = text(tokens.get(index + 1));
                Some(word)
                    .filter(|close| open.last() == Some(close) && next != "|" && (next != ")" || open.contains(&")")))
            }
            _ => None,
        };
        if closes.is_some() {
            open.pop();
        }
        deepest = deepest.max(open.len());
        begins = operator
            || (begins
                && matches!(
                    word,
                    "{" | "}" | "if" | "then" | "elif" | "else" | "fi" | "while" | "until" | "do" | "done" | "esac" | "!"
                        | "time" | "coproc" | ")"
                ))
            // After the name and `in` of `for` and `case`, and after the name of a function, one may follow.
            || matches!(word, "in" | "do" | "{" | "then");
    }
    if open.contains(&")") {
        return Err("an opening parenthesis is not closed".to_owned());
    }
    Ok(deepest)
}
