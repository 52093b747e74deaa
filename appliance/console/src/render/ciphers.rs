//! `show tls-inspection ciphers`.

use weir_api::console::CipherView;

use crate::text::fold;

/// Two lines a suite: what it is called, and what it is made of.
pub fn ciphers(table: &[CipherView]) -> String {
    let mut text = String::new();
    for suite in table {
        let supported = if suite.supported { "supported" } else { "not supported" };
        let on = if suite.on_by_default { "on" } else { "off" };
        text += &fold(&format!("{:#06x}  ", suite.id), &suite.name);
        let [weakest, strongest] = &suite.versions;
        let versions = if weakest == strongest {
            weakest.clone()
        } else {
            format!("{weakest} to {strongest}")
        };
        let parts = format!(
            "{versions}; key exchange {}, authentication {}, {}, {}; {on} by default, {supported}",
            suite.key_exchange, suite.authentication, suite.bulk, suite.mac
        );
        text += &fold("        ", &parts);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::WIDTH;

    #[test]
    fn table_fits_and_tells_what_is_supported() {
        let text = ciphers(&CipherView::table());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        let expected = "\
0x1301  TLS_AES_128_GCM_SHA256
        TLS 1.3; key exchange any, authentication any, AES-128 GCM, GCM; on by
        default, supported
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("\n0xc023  TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256\n"), "{text}");
        assert!(text.contains("SSL 3.0 to TLS 1.2; key exchange RSA"), "{text}");
    }
}
