//! The `weir:` section the lab provisions: the same text for both wires, everything inline.

use std::fmt::Write as _;

use anyhow::Result;

use crate::certificates::{Certificates, Identity};
use crate::ends::{MALWARE, OWN_SERVER};

/// `sid` of the rule that drops the attack of check 2.
pub const ATTACK_SID: u32 = 1_000_001;
/// Its message.
pub const ATTACK_MESSAGE: &str = "lab: password file asked for";
/// `sid` of the rule against uploads.
pub const UPLOAD_SID: u32 = 1_000_002;
/// `sid` of the rule against responses.
pub const MALWARE_SID: u32 = 1_000_003;
/// In a request's body; a rule drops it.
pub const UPLOAD_ATTACK: &str = "${jndi:ldap://";

/// What the engine may be late by: on a busy machine, or a processor that QEMU emulates, a second without
/// a turn is no fault of the engine, and would let sessions cross that a test wants inspected.
const PATIENCE: &str = "    health:\n      heartbeat-timeout: 10000\n      overload-lag: 10000\n";

/// The document with the product's own times after which an engine counts as stuck, or overloaded.
pub fn impatient(section: &str) -> String {
    section.replace(PATIENCE, "")
}

/// The document, `weir:` at its first line.
pub fn weir_section(certificates: &Certificates) -> Result<String> {
    let mut text = format!(
        r#"weir:
  device:
    client-inspection: true
    server-inspection: true
    max-concurrent-sessions: 10000
{PATIENCE}  segments:
    - id: 1
      name: lab
      layer-2-fallback: permit-all
  virtual-segments:
    - name: all
      profile: default
  profiles:
    - name: default
      server-policies:
        - name: shop
          server-proxy: shop
      client-policies:
        - name: staff
          client-proxy: staff
          decryption-policy: private
          trust-store: lab
      filters: [lab]
  decryption-policies:
    - name: private
      domains-not-to-decrypt: ["bank.example", "*.bank.example"]
  filters:
    - name: lab
      rules: |
        drop http any any -> any any (msg:"{ATTACK_MESSAGE}"; flow:established,to_server; http.uri; content:"/etc/passwd"; nocase; sid:{ATTACK_SID}; rev:1;)
        drop tcp any any -> any any (msg:"lab: attack in an upload"; flow:established,to_server; content:"{UPLOAD_ATTACK_ESCAPED}"; sid:{UPLOAD_SID}; rev:1;)
        drop tcp any any -> any any (msg:"lab: malware in a response"; flow:established,to_client; content:"{MALWARE}"; sid:{MALWARE_SID}; rev:1;)
  client-proxies:
    - name: staff
      detection-ports: ["443"]
      service: http
      reset-client-on-block: true
      logging: true
      signing-certificate:
"#
    );
    identity(&mut text, 8, &certificates.signing_ca)?;
    text.push_str("  trust-stores:\n    - name: lab\n      default-ca-package: false\n");
    text.push_str("      certificates:\n        - |\n");
    block(&mut text, 10, &certificates.public_ca.certificate_pem()?);
    write!(
        text,
        "  server-proxies:\n    - name: shop\n      destinations: [\"{OWN_SERVER}/32\"]\n      \
         detection-ports: [\"443\"]\n      service: http\n      reset-server-on-block: true\n      \
         certificates:\n"
    )?;
    for own in [&certificates.shop, &certificates.wholesale] {
        text.push_str("        -\n");
        identity(&mut text, 10, own)?;
    }
    Ok(text)
}

/// `$` and `{` need no escape in a rule, `:` and `;` would: the colon is written in hexadecimal.
const UPLOAD_ATTACK_ESCAPED: &str = "${jndi|3a|ldap|3a|//";

/// Certificate and key as members of a mapping, so far indented.
pub fn identity(text: &mut String, indent: usize, identity: &Identity) -> Result<()> {
    for (key, pem) in [("certificate", identity.certificate_pem()?), ("key", identity.key_pem()?)] {
        writeln!(text, "{:indent$}{key}: |", "")?;
        block(text, indent + 2, &pem);
    }
    Ok(())
}

/// Lines of a block scalar.
pub fn block(text: &mut String, indent: usize, content: &str) {
    for line in content.lines() {
        text.extend(std::iter::repeat_n(' ', indent));
        text.push_str(line);
        text.push('\n');
    }
}
