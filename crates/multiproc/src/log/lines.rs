//! Splits what is read from a pipe into lines of limited length.

/// The most bytes of a line, without its end; a longer line is split.
pub(crate) const LONGEST: usize = 64 * 1024;

/// The beginning of a line that has not ended yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes, and calls `each` for every line that they end, without the line feed.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST - self.begun.len();
            let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            let (line, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None if bytes.len() > room => bytes.split_at(room),
                None => {
                    self.begun.extend_from_slice(bytes);
                    return;
                }
            };
            bytes = rest;
            if self.begun.is_empty() {
                each(line);
            } else {
                self.begun.extend_from_slice(line);
                each(&self.begun);
                self.begun.clear();
            }
        }
    }

    /// Ends the stream: calls `each` for an unfinished line, if there is one.
    pub(crate) fn finish(&mut self, each: impl FnOnce(&[u8])) {
        if !self.begun.is_empty() {
            each(&self.begun);
        }
        // Frees the memory too: most processes print only short lines, or nothing.
        self.begun = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.take(piece, |line| out.push(line.to_vec()));
        }
        lines.finish(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn any_fragmentation() {
        let text = b"one\n\ntwo \xff\x00\r\nthree";
        let expected: [&[u8]; 4] = [b"one", b"", b"two \xff\x00\r", b"three"];
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(lines(&[a, b]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&single), expected);
        assert_eq!(lines(&[b"a\n"]), [b"a"]);
        assert_eq!(lines(&[b""]), [b""; 0]);
    }

    #[test]
    fn long_line_is_split() {
        for len in [LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST, 3 * LONGEST + 7] {
            let mut text: Vec<u8> = (0..len).map(|at| b'a' + (at % 26) as u8).collect();
            text.extend_from_slice(b"\nnext\n");
            for piece in [usize::MAX, 1000, LONGEST, LONGEST - 1] {
                let pieces: Vec<&[u8]> = text.chunks(piece.min(text.len())).collect();
                let lines = lines(&pieces);
                assert_eq!(lines.last().unwrap(), b"next");
                assert!(lines.iter().all(|line| line.len() <= LONGEST));
                assert_eq!(lines.concat(), [&text[..len], b"next"].concat(), "{len} bytes by {piece}");
                assert_eq!(lines.len(), len.div_ceil(LONGEST) + 1, "{len} bytes by {piece}");
            }
        }
    }
}
