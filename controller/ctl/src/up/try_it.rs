//! The commands that `up` suggests: `local/try.txt` of the directory, with addresses filled in.
//!
//! The file has blocks of a line `# what it shows` and lines of commands, with blank lines between them. `$(NAME)` stands for:
//! `GATEWAY_<NAME>`, the address of a Gateway (upper-case, `-` as `_`); `DIR`, the directory; `SELVAGE`, this program.

use crate::expand::expand;
use std::collections::BTreeMap;

/// One suggestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// What it shows.
    pub title: String,
    /// What to type, with every variable replaced.
    pub command: String,
}

/// Reads the blocks of a file. Unknown variables stay as they are, so that one sees them.
pub fn parse(text: &str, variables: &BTreeMap<String, String>) -> Vec<Suggestion> {
    let mut found: Vec<Suggestion> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        match line.strip_prefix("# ") {
            Some(title) => found.push(Suggestion { title: title.into(), command: String::new() }),
            None if line.is_empty() => {}
            None => {
                if let Some(last) = found.last_mut() {
                    let gap = if last.command.is_empty() { "" } else { "\n" };
                    last.command = format!("{}{gap}{}", last.command, expand(line, |name| variables.get(name)));
                }
            }
        }
    }
    for suggestion in &mut found {
        suggestion.title = expand(&suggestion.title, |name| variables.get(name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_suggestions_with_their_variables_replaced() {
        let variables = BTreeMap::from([("GATEWAY_PUBLIC".to_string(), "127.64.1.1".to_string())]);
        let found = parse("# One\ncurl http://$(GATEWAY_PUBLIC):8080/\n\n# Two\na\nb $(NOBODY)\n", &variables);
        assert_eq!(
            found,
            [
                Suggestion { title: "One".into(), command: "curl http://127.64.1.1:8080/".into() },
                Suggestion { title: "Two".into(), command: "a\nb $(NOBODY)".into() },
            ]
        );
    }
}
