//! `schema/policy.schema.json`: made from the table of keys, and checked in. Run with `FUMEHOOD_WRITE_SCHEMA=1` to write it anew.

use fumehood_policies::command::Verdict;
use fumehood_policies::{Absent, CallKind, KEYS, Kind, Nature, PolicyFile, builtin, builtin_names, calls};
use serde_json::{Map, Value, json};

/// The names of system calls of the other kinds.
fn calls_but(wrong: CallKind) -> Vec<&'static str> {
    let mut names: Vec<_> = calls()
        .filter(|(_, kind)| *kind != wrong)
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names
}

fn of(kind: Kind) -> Value {
    let strings = |item: Value| json!({ "type": "array", "items": item, "uniqueItems": true, "maxItems": 1024 });
    let or_unlimited = |other: Value| json!({ "anyOf": [{ "const": "unlimited" }, other] });
    let size = || json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)$" });
    let duration = || json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" });
    let path = || json!({ "type": "string", "pattern": "^(/|\\$\\{(home|workspace|cache)\\}(/|$))" });
    let count = |most: u64| json!({ "type": "integer", "minimum": 1, "maximum": most });
    match kind {
        Kind::Version => json!({ "const": 1 }),
        Kind::Name => json!({ "type": "string", "pattern": "^[a-z0-9-]{1,64}$" }),
        Kind::Line => json!({ "type": "string", "maxLength": 1024 }),
        Kind::References => strings(json!({ "type": "string", "pattern": "^([a-z0-9-]{1,64}|\\.\\.?/.*\\.toml)$" })),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Words(words) => strings(json!({ "enum": words })),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Granted | Kind::Hidden | Kind::ReadOnly => strings(path()),
        Kind::Protected => strings(json!({ "type": "string", "pattern": "^[^/~$*?]" })),
        Kind::Size => size(),
        Kind::SizeOrUnlimited => or_unlimited(size()),
        Kind::DurationOrUnlimited => or_unlimited(duration()),
        Kind::Grace | Kind::Wait => duration(),
        Kind::Processes => or_unlimited(count(4_194_304)),
        Kind::Files => or_unlimited(count(1 << 40)),
        Kind::Cpus => or_unlimited(json!({ "type": "number", "minimum": 0.01, "maximum": 1024 })),
        Kind::OpenFiles => json!({
            "type": "object",
            "properties": { "soft": count(1 << 30), "hard": count(1 << 30) },
            "required": ["soft", "hard"],
            "additionalProperties": false,
        }),
        Kind::Ports => strings(count(65535)),
        Kind::PassNames => strings(json!({ "type": "string", "pattern": "^[^*=\\s$][^*=\\s]*\\*?$" })),
        Kind::NeverNames => strings(json!({ "type": "string", "pattern": "^\\*?[^*=\\s$]*\\*?$" })),
        Kind::AllowedCalls => strings(json!({ "enum": calls_but(CallKind::Never) })),
        Kind::DeniedCalls => strings(json!({ "enum": calls_but(CallKind::Needed) })),
        Kind::Variables => json!({
            "type": "object",
            "patternProperties": { "^[A-Za-z_][A-Za-z0-9_]*$": { "type": "string" } },
            "additionalProperties": false,
            "maxProperties": 1024,
        }),
        Kind::Rules => rules(kind),
        Kind::Ceilings => json!({
            "type": "array",
            "maxItems": kind.max_entries(),
            "items": {
                "type": "object",
                "properties": { "default": verdict(), "unreadable": verdict(), "rules": rules(Kind::Rules) },
                "additionalProperties": false,
            },
        }),
        Kind::Tests => {
            let subjects = ["read", "write", "execute", "host", "environment", "command"];
            let mut properties: Map<String, Value> = subjects
                .iter()
                .map(|key| ((*key).to_owned(), json!({ "type": "string" })))
                .collect();
            properties.insert("expect".to_owned(), json!({ "enum": ["deny", "ask", "allow"] }));
            let one: Vec<Value> = subjects.iter().map(|key| json!({ "required": [key] })).collect();
            json!({
                "type": "array",
                "maxItems": 1024,
                "items": { "type": "object", "properties": properties, "required": ["expect"], "oneOf": one, "additionalProperties": false },
            })
        }
    }
}

fn verdict() -> Value {
    json!({ "enum": Verdict::WORDS })
}

fn rules(kind: Kind) -> Value {
    let word = || json!({ "type": "string", "minLength": 1, "maxLength": 256 });
    // One string stands for a list of one.
    let words = |least: u64| json!({ "anyOf": [word(), { "type": "array", "items": word(), "minItems": least, "maxItems": 32 }] });
    let lines = || {
        let line = || json!({ "type": "string", "minLength": 1, "maxLength": 1024 });
        json!({ "anyOf": [line(), { "type": "array", "items": line(), "maxItems": 32 }] })
    };
    json!({
        "type": "array",
        "maxItems": kind.max_entries(),
        "items": {
            "type": "object",
            "properties": {
                "program": words(1),
                "args": { "anyOf": [word(), { "type": "array", "items": words(1), "maxItems": 32 }] },
                "exact": { "type": "boolean" },
                "has": words(0),
                "decision": verdict(),
                "reason": { "type": "string", "maxLength": 1024 },
                "match": lines(),
                "no-match": lines(),
            },
            "required": ["program", "decision"],
            "additionalProperties": false,
        },
    })
}

fn schema() -> String {
    let mut top = Map::new();
    for key in KEYS {
        let mut schema = of(key.kind);
        let nature = match key.nature {
            Nature::Grant => " A grant.",
            Nature::Restriction => " A restriction.",
            Nature::About => "",
        };
        schema["description"] = json!(format!("{}{nature}", key.doc));
        let properties = match key.section {
            "" => &mut top,
            section => {
                let table = top
                    .entry(section)
                    .or_insert_with(|| json!({ "type": "object", "properties": {}, "additionalProperties": false }));
                table["properties"].as_object_mut().unwrap()
            }
        };
        properties.insert(key.name.to_owned(), schema);
    }
    let required = KEYS
        .iter()
        .filter(|key| key.absent == Absent::Refused)
        .map(|key| key.name);
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Fumehood policy",
        "type": "object",
        "required": required.collect::<Vec<_>>(),
        "properties": top,
        "additionalProperties": false,
    });
    serde_json::to_string_pretty(&schema).unwrap() + "\n"
}

#[test]
fn the_schema_is_the_one_that_the_keys_make() {
    let path = format!("{}/schema/policy.schema.json", env!("CARGO_MANIFEST_DIR"));
    let made = schema();
    if std::env::var_os("FUMEHOOD_WRITE_SCHEMA").is_some() {
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "{path} is stale: run this test with FUMEHOOD_WRITE_SCHEMA=1"
    );
}

/// Whether every key that a file states is in the schema, with the words that it has there.
#[test]
fn what_the_built_in_policies_state_is_in_the_schema() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    for name in builtin_names() {
        let text = builtin(name).unwrap().1.to_toml();
        let file = PolicyFile::parse(text.as_bytes(), name).unwrap();
        for statement in file.statements().iter() {
            let key = statement.key;
            let table = match key.section {
                "" => &schema,
                section => &schema["properties"][section],
            };
            let found = &table["properties"][key.name];
            assert!(found.is_object(), "{name}: {}", key.path());
            if let (Some(words), Some(entry)) = (found["enum"].as_array(), statement.entries.first()) {
                let word = entry.value.spelled(key.kind);
                let word = word.trim_matches('"');
                assert!(
                    words.iter().any(|known| known.as_str() == Some(word)),
                    "{name}: {} {word}",
                    key.path()
                );
            }
        }
    }
}
