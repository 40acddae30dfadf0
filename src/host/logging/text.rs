//! Lines for people: without the fields that are for the journal's indexes only.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// 32 digits that mean something to `journalctl` alone.
const HIDDEN: &str = "message_id";

/// Makes the fields of an event as tracing's own format does, but for [`HIDDEN`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields;

/// See [`Fields`].
pub(super) struct Visitor<'a>(DefaultVisitor<'a>);

impl<'a> MakeVisitor<Writer<'a>> for Fields {
    type Visitor = Visitor<'a>;

    fn make_visitor(&self, target: Writer<'a>) -> Visitor<'a> {
        Visitor(DefaultVisitor::new(target, true))
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != HIDDEN {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.record_error(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != HIDDEN {
            self.0.record_debug(field, value);
        }
    }
}

impl VisitOutput<fmt::Result> for Visitor<'_> {
    fn finish(self) -> fmt::Result {
        self.0.finish()
    }
}

impl VisitFmt for Visitor<'_> {
    fn writer(&mut self) -> &mut dyn fmt::Write {
        self.0.writer()
    }
}
