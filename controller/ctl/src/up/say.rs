//! What `up` tells the person in front of it: one line at a time, whoever speaks.

use parking_lot::Mutex;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

/// A tongue that many tasks share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Say(Arc<Mouth>);

#[derive(Debug)]
enum Mouth {
    /// Standard output; with colours where somebody looks.
    Terminal { colours: bool },
    /// Kept in memory, for tests and for the checks of others.
    Memory(Mutex<String>),
}

/// How a line is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A step that is done.
    Done,
    /// Something was refused or is missing; the rest goes on.
    Warning,
    /// Ordinary text.
    Plain,
}

impl Say {
    /// To standard output.
    pub fn aloud() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self(Arc::new(Mouth::Terminal { colours }))
    }

    /// Into memory: see [`Say::said`].
    pub fn remembering() -> Self {
        Self(Arc::new(Mouth::Memory(Mutex::default())))
    }

    /// Everything said so far, where it is remembered.
    pub fn said(&self) -> String {
        match &*self.0 {
            Mouth::Terminal { .. } => String::new(),
            Mouth::Memory(text) => text.lock().clone(),
        }
    }

    /// A line of `up` itself.
    pub fn tell(&self, tone: Tone, text: &str) {
        match tone {
            Tone::Done => self.write("32", "✓ ", text),
            Tone::Warning => self.write("33", "! ", text),
            Tone::Plain => self.write("", "", text),
        }
    }

    /// A line that a local process wrote.
    pub fn line(&self, name: &str, text: &str) {
        self.write("36", &format!("{name} | "), text);
    }

    fn write(&self, colour: &str, mark: &str, text: &str) {
        match &*self.0 {
            Mouth::Terminal { colours } => {
                let line = match (*colours && !colour.is_empty(), mark) {
                    (true, mark) => format!("\x1b[{colour}m{mark}\x1b[0m{text}\n"),
                    (false, mark) => format!("{mark}{text}\n"),
                };
                // Nobody reads any more: nothing can be said about that either.
                let _ = std::io::stdout().lock().write_all(line.as_bytes());
            }
            Mouth::Memory(said) => {
                let mut said = said.lock();
                said.push_str(&format!("{mark}{text}\n"));
            }
        }
    }
}
