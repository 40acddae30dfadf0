//! Lines of a management interface, cut out of whatever pieces the socket gives.
//!
//! Owns the unfinished line. One that grows longer than any real one ends the connection.

use super::fault::Fault;

/// Longest line. OpenVPN cuts what it prints at 10,240 bytes (`ERR_BUF_SIZE`, src/openvpn/error.h).
pub(super) const MAX_LINE: usize = 16 * 1024;

/// The only thing that is said without an end of line (management-notes.txt, `management`).
pub(super) const PASSWORD_PROMPT: &[u8] = b"ENTER PASSWORD:";

/// Cuts lines. The prompt for a password counts as one.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// The prompt was given out before its line ended, if it ever does.
    prompted: bool,
}

impl Lines {
    /// Gives each line that ends in `bytes` to `sink`, without its end. Stops at its error.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A line may come byte by byte: the prompt is looked for at its own length only.
            for part in self.split_at_prompt(piece) {
                self.partial.extend_from_slice(part);
                if self.partial == PASSWORD_PROMPT {
                    self.partial.clear();
                    self.prompted = true;
                    sink(PASSWORD_PROMPT)?;
                }
            }
            if self.partial.len() > MAX_LINE {
                return Err(Fault::LongLine);
            }
            if self.partial.last() == Some(&b'\n') {
                let line = without_end(&self.partial);
                if !(self.prompted && line.is_empty()) {
                    sink(line)?;
                }
                self.prompted = false;
                self.partial.clear();
            }
        }
        Ok(())
    }

    /// `piece` in two parts, the first of which completes a prompt, if one can be completed.
    fn split_at_prompt<'a>(&self, piece: &'a [u8]) -> [&'a [u8]; 2] {
        let wanted = PASSWORD_PROMPT.len().saturating_sub(self.partial.len());
        let (first, rest) = piece.split_at(wanted.min(piece.len()));
        [first, rest]
    }
}

/// A line without `\n` or `\r\n`: other white space belongs to fields and names.
pub(super) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<String>, Result<(), Fault>) {
        let mut cut = Lines::default();
        let mut all = Vec::new();
        let result = pieces.iter().try_for_each(|piece| {
            cut.feed(piece, |line| {
                all.push(line.escape_ascii().to_string());
                Ok(())
            })
        });
        (all, result)
    }

    #[test]
    fn lines_end_in_either_way_and_the_prompt_needs_no_end() {
        let (all, result) = lines(&[
            b"a\r\nb\n\n ENTER PASSWORD:\nENTER PASS",
            b"WORD:SUCC",
            b"ESS: x\r\n",
        ]);
        assert_eq!(
            all,
            [
                "a",
                "b",
                "",
                " ENTER PASSWORD:",
                "ENTER PASSWORD:",
                "SUCCESS: x"
            ]
        );
        assert_eq!(result, Ok(()));
        assert_eq!(
            lines(&[b"ENTER PASSWORD:\r\nx\n"]).0,
            ["ENTER PASSWORD:", "x"]
        );
    }

    #[test]
    fn a_line_without_end_is_refused_in_bounded_memory() {
        let mut cut = Lines::default();
        let mut fed = 0;
        let fault = loop {
            if let Err(fault) = cut.feed(&[b'x'; 1000], |_| Ok(())) {
                break fault;
            }
            fed += 1000;
        };
        assert_eq!(fault, Fault::LongLine);
        assert!(fed <= MAX_LINE && cut.partial.len() <= MAX_LINE + 1000);
    }
}
