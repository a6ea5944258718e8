//! Program streams: who reads them, and what is expected of their text.

use kernel_model::ProgId;
use kernel_model::stream::StreamId;
use scenarios::Spanned;
use scenarios::leaf::{Is, TextIs};
use scenarios::schema::Name;
use scenarios::schema::expect::StreamOf;

use super::Run;
use super::expect::Checked;

/// Buffer of one read, as bpftool's.
const READ: usize = 4096;

/// What is asked of a stream.
pub(super) struct Wanted<'a> {
    pub of: StreamOf,
    pub has: &'a [TextIs],
    pub lacks: &'a [TextIs],
    pub bytes: Option<&'a Spanned<Is<u64>>>,
}

impl Run<'_> {
    /// User space reads both streams of a program once.
    pub(super) fn consume_streams(&mut self, prog: ProgId) {
        for id in [StreamId::Out, StreamId::Err] {
            let text = self.machine.kernel.stream_read(prog, id, READ);
            self.streams.entry((prog, id)).or_default().extend(text);
        }
    }

    /// What was read so far and what is still in the stream.
    pub(super) fn stream(&mut self, prog: &Name, wanted: &Wanted<'_>) -> Checked {
        let id = self.prog(prog)?;
        let stream = match wanted.of {
            StreamOf::Out => StreamId::Out,
            StreamOf::Err => StreamId::Err,
        };
        let mut all = self.streams.get(&(id, stream)).cloned().unwrap_or_default();
        all.extend(self.machine.kernel.stream_text(id, stream));
        let text = String::from_utf8_lossy(&all);
        let name = stream.name();
        let mut from = 0;
        for part in wanted.has {
            match text[from..].find(&part.0) {
                Some(n) => from += n + part.0.len(),
                None => {
                    let said = match text.is_empty() {
                        true => "it is empty".to_owned(),
                        false => format!("it says:\n{text}"),
                    };
                    let part = &part.0;
                    self.fail(prog.span, format!("{name} has no {part:?} there; {said}"));
                }
            }
        }
        for part in wanted.lacks.iter().filter(|p| text.contains(&p.0)) {
            self.fail(prog.span, format!("{name} says {:?}:\n{text}", part.0));
        }
        if let Some(b) = wanted.bytes {
            self.number(&b.v, all.len() as u64, b.span, &format!("bytes in {name}"));
        }
        Ok(())
    }
}
