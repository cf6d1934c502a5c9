//! Looking at documents with JSON schemas.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

use serde_json::{Value, json};

use super::common::run_with;

/// What a schema has against each of these; nothing where it matches. A schema that names no draft is of draft 7.
pub fn against(schema: &Value, documents: &[Value]) -> Vec<Option<String>> {
    let program = "import json, sys\n\
                   from jsonschema import Draft7Validator\n\
                   from jsonschema.validators import validator_for\n\
                   schema, documents = json.load(sys.stdin)\n\
                   validator = validator_for(schema, Draft7Validator)\n\
                   validator.check_schema(schema)\n\
                   errors = validator(schema).iter_errors\n\
                   print(json.dumps([next((e.message for e in errors(each)), None) for each in documents]))";
    let ran =
        run_with(Command::new("python3").args(["-c", program]), json!([schema, documents]).to_string().as_bytes());
    serde_json::from_str(&ran.ok().out).unwrap()
}
