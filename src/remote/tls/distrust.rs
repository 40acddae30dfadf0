//! Why a server's certificate is not trusted, as the sentence an operator reads: rustls has names of
//! its own types there.

use rustls::CertificateError;

/// What was refused in the server's certificate; none when the error is about something else.
pub(in crate::remote) fn distrust(error: &rustls::Error) -> Option<String> {
    match error {
        rustls::Error::General(why) => Some(why.clone()),
        rustls::Error::InvalidCertificate(fault) => Some(said(fault)),
        _ => None,
    }
}

fn said(fault: &CertificateError) -> String {
    match fault {
        // The last one: an authority of that name is trusted, and its key is of another kind.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "no authority that this host trusts has signed its certificate; if that is the controller's, set ca_file in [controller] to the certificate of the authority that signed it, or use a token that pins the controller's certificate".to_owned()
        }
        // webpki's word, which rustls passes on without a name of its own.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority (CA:TRUE), not of a server; give the controller a server certificate that the authority has signed, or use a token that pins the one it has".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    fn of(fault: CertificateError) -> String {
        distrust(&rustls::Error::InvalidCertificate(fault)).unwrap()
    }

    #[test]
    fn an_operator_reads_sentences_and_no_names_of_types() {
        let wrong_kind = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![1],
            public_key_algorithm_id: vec![2],
        };
        for fault in [
            wrong_kind,
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
        ] {
            let text = of(fault);
            assert!(text.contains("set ca_file in [controller]"), "{text}");
            assert!(!text.contains("Unsupported"), "{text}");
        }
        let ca = std::io::Error::other("CaUsedAsEndEntity");
        let text = of(CertificateError::Other(OtherError(Arc::new(ca))));
        assert!(text.contains("not of a server"), "{text}");
        let pin = distrust(&rustls::Error::General("another pin".into()));
        assert_eq!(pin.as_deref(), Some("another pin"));
        assert_eq!(distrust(&rustls::Error::DecryptError), None);
    }
}
