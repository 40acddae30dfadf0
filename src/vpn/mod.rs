//! One module a backend behind one trait; each is a pure parser and a thin reader.
