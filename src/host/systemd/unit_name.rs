//! Names of services, as systemd spells them (systemd.unit(5), "Unit File Names"). Pure.

use std::fmt;

use thiserror::Error;

/// `UNIT_NAME_MAX` of systemd, without its closing NUL.
const MAX_UNIT_NAME: usize = 255;

const SUFFIX: &str = ".service";

/// The name of one service, such as `wg-quick@wg0.service`. It has no `/`, so it can stand in a
/// path; it does not begin with `-`, so it is no option.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName(String);

/// Why a text does not name a service. The text is the operator's own and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ServiceNameError {
    /// Another kind of unit, or none.
    #[error("a service is wanted, with its full name: wg-quick@wg0.service")]
    NotAService,
    /// Longer than systemd takes.
    #[error("the name is longer than {MAX_UNIT_NAME} bytes")]
    TooLong,
    /// Not one of systemd's characters.
    #[error(
        "it has a character that systemd allows in no unit's name (letters, digits, `:-_.\\` and \
         `@`; a path is no name: systemd-escape(1) makes one of it)"
    )]
    Character,
    /// Nothing before `@` or before the suffix, or an option's hyphen.
    #[error("it does not begin with a name")]
    NoPrefix,
    /// A template: nothing runs by that name.
    #[error("it is a template; name one instance: wg-quick@wg0.service")]
    Template,
}

impl ServiceName {
    /// Takes `text` if it is the name of a service that can run.
    ///
    /// # Errors
    /// [`ServiceNameError`].
    pub fn parse(text: &str) -> Result<Self, ServiceNameError> {
        if text.len() > MAX_UNIT_NAME {
            return Err(ServiceNameError::TooLong);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
        if !text.bytes().all(allowed) {
            return Err(ServiceNameError::Character);
        }
        let name = text
            .strip_suffix(SUFFIX)
            .ok_or(ServiceNameError::NotAService)?;
        let prefix = name.split('@').next().unwrap_or_default();
        // systemd allows a name that begins with "-" (the root's mount unit); no service needs it,
        // and every tool takes it for an option.
        if prefix.is_empty() || prefix.starts_with('-') {
            return Err(ServiceNameError::NoPrefix);
        }
        if name.ends_with('@') && name.matches('@').count() == 1 {
            return Err(ServiceNameError::Template);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as systemd knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn services_and_their_instances_are_names() {
        for name in [
            "strongswan.service",
            "wg-quick@wg0.service",
            "openvpn-server@site-2.ovpn.service",
            "x@a@b.service",
            "dev-disk\\x2did.service",
            "a:b_c.service",
        ] {
            assert_eq!(ServiceName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        use ServiceNameError::{Character, NoPrefix, NotAService, Template, TooLong};
        let long = format!("{}.service", "x".repeat(248));
        for (text, why) in [
            ("wg-quick@wg0", NotAService),
            ("tmp.mount", NotAService),
            ("", NotAService),
            ("/etc/passwd.service", Character),
            ("../x.service", Character),
            ("a b.service", Character),
            ("a\n.service", Character),
            ("a\0.service", Character),
            ("é.service", Character),
            ("*.service", Character),
            (".service", NoPrefix),
            ("@x.service", NoPrefix),
            ("--root=x.service", Character),
            ("--now.service", NoPrefix),
            ("wg-quick@.service", Template),
            (long.as_str(), TooLong),
        ] {
            assert_eq!(ServiceName::parse(text), Err(why), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_plain_component_of_a_path(text in ".{0,40}(\\.service)?") {
            if let Ok(name) = ServiceName::parse(&text) {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().unwrap(), name.as_str());
            }
        }
    }
}
