//! Where the command writes, and its few colours.
//!
//! Text is written with escape sequences; the streams of `anstream` take them out when they do not
//! lead to a terminal or `NO_COLOR` is set. Text from outside never gets here unescaped.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use vpn_node_protocol::encoding::json_for_terminals;

use super::Exit;

/// Standard output and standard error.
pub(super) struct Console<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    lost: bool,
}

impl<'a> Console<'a> {
    pub(super) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self {
            out,
            err,
            lost: false,
        }
    }

    /// Writes what was asked for.
    pub(super) fn out(&mut self, text: &str) {
        match self.out.write_all(text.as_bytes()) {
            // The reader (`head`) has seen enough; that is no error.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => self.lost = true,
            _ => {}
        }
    }

    /// Writes an object of JSON; names from outside in it cannot steer the terminal.
    pub(super) fn json(&mut self, value: &serde_json::Value) {
        self.out(&json_for_terminals(&format!("{value:#}\n")));
    }

    /// Writes remarks and errors. There is nobody to tell if that fails.
    pub(super) fn err(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes());
    }

    /// One error sentence with the program's name.
    pub(super) fn error(&mut self, sentence: impl Display) {
        self.err(&format!("{} {sentence}\n", red("vpn-node:")));
    }

    /// One remark with the program's name.
    pub(super) fn warning(&mut self, sentence: impl Display) {
        self.err(&format!("{} {sentence}\n", yellow("vpn-node: warning:")));
    }

    /// Shows what is written so far; [`Self::finish`] says whether it was lost.
    pub(super) fn flush(&mut self) {
        let _ = self.out.flush();
    }

    /// Flushes; output that was lost (full disk) turns success into failure.
    pub(super) fn finish(&mut self, exit: Exit) -> Exit {
        match self.out.flush() {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => self.lost = true,
            _ => {}
        }
        if self.lost && exit == Exit::Ok {
            self.error("the output could not be written completely; is the disk full?");
            return Exit::Failed;
        }
        exit
    }
}

pub(super) fn bold(text: impl Display) -> String {
    format!("\x1b[1m{text}\x1b[0m")
}

pub(super) fn green(text: impl Display) -> String {
    format!("\x1b[32m{text}\x1b[0m")
}

pub(super) fn yellow(text: impl Display) -> String {
    format!("\x1b[33m{text}\x1b[0m")
}

pub(super) fn red(text: impl Display) -> String {
    format!("\x1b[31m{text}\x1b[0m")
}
