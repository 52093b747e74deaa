//! What filters block in decrypted sessions, however it is cut, and what they leave whole.

use super::*;

#[test]
fn an_attack_split_over_records_is_blocked() {
    passes(|bench, _| {
        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, b"GET /?split=../../etc/pas")?;
        std::thread::sleep(Duration::from_millis(100));
        write_record(&mut tls, b"swd HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
        let (answer, _) = read_until(&mut tls, "\r\n\r\n", 1);
        assert_eq!(answer, "", "the attack was answered");
        assert!(!bench.ends.access_log()?.contains("split"));
        Ok(())
    });
}

#[test]
fn an_attack_in_an_upload_split_over_records_is_blocked() {
    passes(|bench, evidence| {
        let mut tls = connect(&bench.ends, "public.example");
        let body = format!("field={UPLOAD_ATTACK}evil.example/a}}");
        let (first, second) = body.split_at(14);
        let length = body.len();
        let head = format!(
            "PUT /upload/attack HTTP/1.1\r\nHost: public.example\r\nContent-Length: {length}\r\n\r\n"
        );
        write_record(&mut tls, head.as_bytes())?;
        write_record(&mut tls, first.as_bytes())?;
        std::thread::sleep(Duration::from_millis(100));
        write_record(&mut tls, second.as_bytes())?;
        let (answer, _) = read_until(&mut tls, "\r\n\r\n", 1);
        assert_eq!(answer, "", "the attack was answered");
        assert!(!bench.ends.served("upload/attack").exists(), "the upload was stored");
        checks::row_on_console(bench, evidence, "show events", &UPLOAD_SID.to_string())?;
        Ok(())
    });
}

#[test]
fn malware_in_a_response_never_arrives_whole() {
    passes(|bench, evidence| {
        let fetched = Fetch::new("public.example", "/malware.txt").run(&bench.ends)?;
        assert_ne!(fetched.exit, 0, "the response got through");
        let body = std::fs::read_to_string(&fetched.body).unwrap_or_default();
        assert!(!body.contains(MALWARE), "{body}");
        checks::row_on_console(bench, evidence, "show events", &MALWARE_SID.to_string())?;
        Ok(())
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_attack() {
    passes(|bench, _| {
        let page = std::fs::read_to_string(bench.ends.served("index.html"))?;
        let request =
            |target: &str| format!("GET {target} HTTP/1.1\r\nHost: public.example\r\n\r\n");
        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, (request("/?n=1") + &request("/?n=2")).as_bytes())?;
        let (answers, end) = read_until(&mut tls, page.trim_end(), 2);
        end?;
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");

        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, (request("/?n=3") + &request("/?n=/etc/passwd")).as_bytes())?;
        let (answers, _) = read_until(&mut tls, page.trim_end(), 2);
        assert!(answers.matches("HTTP/1.1 200").count() <= 1, "{answers}");
        assert!(!bench.ends.access_log()?.contains("passwd"));
        Ok(())
    });
}
