//! Tests of the rules on real directories.
