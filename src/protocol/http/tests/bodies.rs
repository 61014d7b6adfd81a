//! What bodies mean, and what responses look like.

use super::*;

#[test]
fn bodies_say_what_is_wrong_with_them() {
    for (body, message) in [
        ("", "the body is not JSON: EOF while parsing a value at line 1 column 0"),
        ("{\n \"value\" 1}", "the body is not JSON: expected `:` at line 2 column 10"),
        ("{\"value\":\"x\"} y", "the body is not JSON: trailing characters at line 1 column 15"),
        ("[]", "the body is not an object: send {\"value\": \"…\"}"),
        ("{}", "value is not a string"),
        ("{\"value\":1}", "value is not a string"),
        ("{\"value\":\"x\",\"ttl\":1}", "ttl is not a field of this request"),
        ("{\"value\":\"x\",\"ttlSeconds\":\"1\"}", "ttlSeconds is not a number"),
        (
            "{\"value\":\"x\",\"policy\":\"fifo\"}",
            "policy is none of those supported: \"cache-aside\", \"stale-while-revalidate\"",
        ),
        (
            "{\"value\":\"x\",\"ttlSeconds\":1,\"policy\":\"stale-while-revalidate\"}",
            "policy stale-while-revalidate needs ttlSeconds, and staleSeconds for the time after them",
        ),
        (
            "{\"value\":\"x\",\"ttlSeconds\":1,\"staleSeconds\":1}",
            "staleSeconds goes with \"policy\":\"stale-while-revalidate\"",
        ),
        (
            "{\"value\":\"x\",\"ttlSeconds\":1,\"staleSeconds\":1,\"policy\":\"cache-aside\"}",
            "staleSeconds goes with \"policy\":\"stale-while-revalidate\"",
        ),
        ("{\"value\":\"x\",\"encoding\":\"hex\"}", "encoding can only be \"base64\""),
    ] {
        let bytes = put(body);
        let refusal = call(&bytes).unwrap_err();
        assert_eq!((refusal.status, &refusal.message[..]), (Status::BadRequest, message), "{body}");
    }
    for ttl in ["0", "-1", "1e12", "1e400", "100000000000.1"] {
        let bytes = put(&format!("{{\"value\":\"x\",\"ttlSeconds\":{ttl}}}"));
        assert_eq!(call(&bytes).unwrap_err().status, Status::BadRequest, "{ttl}");
    }
    for query in [
        "ttlSeconds=0",
        "ttlSeconds=nan",
        "ttlSeconds=inf",
        "ttlSeconds=",
        "ttl=1",
        "ttlSeconds=1&ttlSeconds=1",
        "staleSeconds=1",
    ] {
        let bytes = head(&format!("PUT /v1/cache/k?{query}"), "Content-Type: application/octet-stream\r\n");
        assert_eq!(call(&bytes).unwrap_err().status, Status::BadRequest, "{query}");
    }
    let both = [
        head("PUT /v1/cache/k?ttlSeconds=1", "Content-Type: application/json\r\nContent-Length: 13\r\n"),
        b"{\"value\":\"x\"}".to_vec(),
    ]
    .concat();
    assert_eq!(call(&both).unwrap_err().status, Status::BadRequest);
    let batch = post("/v1/cache:batchSet", "{\"entries\":[{\"key\":\"a\",\"value\":\"\"},{\"key\":\"b\"}]}");
    assert_eq!(call(&batch).unwrap_err().message, "entries[1].value is not a string");
}

#[test]
fn a_body_of_very_many_values_is_not_even_parsed() {
    let limits = Limits { json_bytes_max: 1 << 20, ..LIMITS };
    let entry = r#"{"key":"k","keyEncoding":"base64","value":",,\",[{","ttlSeconds":1,"policy":"cache-aside"},"#;
    for (item, count, expected) in [
        ("0,", 30_000, "the body has more than 16000 values: send fewer at a time"),
        ("0,", 1001, "\"entries\" has 1001 items: send at most 1000 at a time"),
        (entry, 1000, "entries[0].key is not base64 with padding: Invalid input length: 1"),
    ] {
        let body = format!("{{\"entries\":[{}]}}", item.repeat(count).trim_end_matches(','));
        let bytes = post("/v1/cache:batchSet", &body);
        let Progress::Done(request, _) = Parser::default().advance(&bytes, &limits, None) else {
            panic!("it is whole")
        };
        let refusal = Call::of(request, &limits).unwrap_err();
        assert!(refusal.message.starts_with(expected), "{}", refusal.message);
    }
}

#[test]
fn bodies_are_read_as_they_are_meant() {
    let bytes = put("{\"value\":\"AP8=\",\"encoding\":\"base64\",\"ttlSeconds\":0.0001,\"policy\":\"cache-aside\"}");
    let called = key_call(&bytes);
    assert_eq!(&called.value[..], b"\x00\xff");
    assert!(matches!(called.op, Op::Store(store) if store.expiry == Expiry::In(1)), "{:?}", called.op);
    let raw = [
        head("PUT /v1/cache/k?ttlSeconds=1.5", "Content-Type: Application/Octet-Stream\r\nContent-Length: 2\r\n"),
        b"\x00\xff".to_vec(),
    ]
    .concat();
    let called = key_call(&raw);
    assert_eq!(&called.value[..], b"\x00\xff");
    assert!(matches!(called.op, Op::Store(store) if store.expiry == Expiry::In(1500)), "{:?}", called.op);
    let policy = "{\"value\":\"x\",\"ttlSeconds\":2,\"staleSeconds\":0.5,\"policy\":\"stale-while-revalidate\"}";
    let octets = "Content-Type: application/octet-stream\r\n";
    for bytes in [put(policy), head("PUT /v1/cache/k?staleSeconds=0.5&ttlSeconds=2", octets)] {
        let op = key_call(&bytes).op;
        assert!(matches!(op, Op::Store(s) if (s.expiry, s.soft_ms) == (Expiry::In(2500), 2000)), "{op:?}");
    }
    let get = post("/v1/cache:batchGet", "{\"keys\":[\"a\",{\"key\":\"/w==\",\"keyEncoding\":\"base64\"}]}");
    assert_eq!(call(&get), Ok(Call::BatchGet(vec![b"a".to_vec(), b"\xff".to_vec()])));
}

#[test]
fn responses_are_complete() {
    let get = head("GET /v1/cache/k", "");
    let called = key_call(&get);
    assert_eq!(
        reply(&called, |out| out.value(&stored(b"v\"\xc3\xa9", Some(2500)))),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 72\r\nETag: \"7\"\r\n\r\n\
         {\"key\":\"k\",\"value\":\"v\\\"é\",\"ttlSeconds\":1.5,\"version\":7,\"state\":\"fresh\"}"
    );
    let missing = reply(&called, |out| out.null());
    assert!(missing.starts_with("HTTP/1.1 404 Not Found\r\n"));
    assert_eq!(body_of(&missing), "{\"error\":{\"code\":\"not_found\",\"message\":\"the key does not exist\"}}");
    let long = reply(&called, |out| out.value(&stored(&[1; 80], None)));
    assert!(long.starts_with("HTTP/1.1 406") && long.contains("octet-stream\"}"), "{long}");

    let raw = head("GET /v1/cache/k", "Accept: application/octet-stream\r\nConnection: close\r\n");
    assert_eq!(
        reply(&key_call(&raw), |out| out.value(&stored(b"ab", Some(3000)))),
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 2\r\nETag: \"7\"\r\n\
         Ttl-Seconds: 2\r\nCache-State: fresh\r\nConnection: close\r\n\r\nab"
    );
    let known = head("GET /v1/cache/k", "If-None-Match: \"7\"\r\n");
    let unchanged = reply(&key_call(&known), |out| out.value(&stored(b"ab", None)));
    assert_eq!(unchanged, "HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\n\r\n");
    let only_head = head("HEAD /v1/cache/k", "");
    let called = key_call(&only_head);
    let described = reply(&called, |out| out.value(&stored(b"ab", None)));
    assert!(described.contains("Content-Length: 70\r\n") && described.ends_with("\r\n\r\n"), "{described}");
    assert!(reply(&called, |out| out.null()).ends_with("\r\n\r\n"));
}

#[test]
fn writes_say_what_became_of_them() {
    let first = |call: &KeyCall<'_>, outcome| {
        let text = reply(call, |out| out.outcome(outcome));
        text.lines().next().unwrap().to_owned()
    };
    let done = |created| Outcome::Done { version: 3, created };
    let bytes = put("{\"value\":\"v\"}");
    let called = key_call(&bytes);
    assert_eq!(first(&called, done(true)), "HTTP/1.1 201 Created");
    assert_eq!(first(&called, done(false)), "HTTP/1.1 200 OK");
    assert_eq!(body_of(&reply(&called, |out| out.outcome(done(true)))), "{\"key\":\"k\",\"version\":3}");
    for (error, status) in [(OpError::OutOfMemory, "507"), (OpError::TooLarge, "413"), (OpError::InvalidExpire, "400")]
    {
        let text = reply(&called, |out| out.refused(error));
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
    }
    let differs = reply(&called, |out| out.outcome(Outcome::Differs { version: 9 }));
    assert!(differs.starts_with("HTTP/1.1 412") && differs.contains("ETag: \"9\""), "{differs}");
    let delete = head("DELETE /v1/cache/k", "");
    let called = key_call(&delete);
    let gone = Outcome::Done { version: 0, created: false };
    assert_eq!(reply(&called, |out| out.outcome(gone)), "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(first(&called, Outcome::NotFound), "HTTP/1.1 404 Not Found");
    let conditional = head("DELETE /v1/cache/k", "If-Match: *\r\n");
    assert_eq!(first(&key_call(&conditional), Outcome::NotFound), "HTTP/1.1 412 Precondition Failed");
}

#[test]
fn a_list_is_as_long_as_it_says() {
    let list = List { name: "values", close: false, bytes_max: 100 };
    for parts in [vec![], vec![b"{}".to_vec()], vec![b"{\"a\":1}".to_vec(), b"{}".to_vec(), b"{}".to_vec()]] {
        let mut out = Vec::new();
        list.write(Some(&parts), &mut out);
        let body = body_of(&String::from_utf8(out).unwrap());
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["values"].as_array().unwrap().len(),
            parts.len()
        );
    }
    let mut out = Vec::new();
    list.write(None, &mut out);
    assert!(out.starts_with(b"HTTP/1.1 413"));
}

#[test]
fn the_description_names_every_code() {
    let description: serde_json::Value = serde_json::from_str(DESCRIPTION).unwrap();
    let codes = &description["components"]["schemas"]["Reason"]["properties"]["code"]["enum"];
    let codes: Vec<&str> = codes.as_array().unwrap().iter().filter_map(|code| code.as_str()).collect();
    let all = [
        Status::BadRequest,
        Status::Unauthorized,
        Status::NotFound,
        Status::MethodNotAllowed,
        Status::NotAcceptable,
        Status::PreconditionFailed,
        Status::TooLarge,
        Status::UriTooLong,
        Status::UnsupportedMediaType,
        Status::ExpectationFailed,
        Status::HeadTooLarge,
        Status::Internal,
        Status::NotImplemented,
        Status::VersionNotSupported,
        Status::InsufficientStorage,
    ];
    assert_eq!(codes, all.map(Status::code));
}

#[test]
fn a_get_may_ask_for_a_lease() {
    let ask = |line: &str, fields: &str| {
        let bytes = head(line, fields);
        match call(&bytes) {
            Ok(Call::Key(KeyCall { op: Op::Fetch { ask: Some(ask), .. }, .. })) => Ok(ask),
            Err(refusal) => Err(refusal.status),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask("GET /v1/cache/k", ""), Ok(Ask::NOTHING));
    let asked = Ask { claim: Claim::Missing, term_ms: 1500, wait_ms: 20, ..Ask::NOTHING };
    assert_eq!(ask("GET /v1/cache/k?waitMs=20&leaseSeconds=1.5", ""), Ok(asked));
    assert_eq!(ask("GET /v1/cache/k?waitMs=0", ""), Ok(Ask { term_ms: 0, wait_ms: 0, ..asked }));
    for query in ["waitMs=-1", "waitMs=60001", "waitMs=", "leaseSeconds=1", "waitMs=0&leaseSeconds=0", "wait=1"] {
        assert_eq!(ask(&format!("GET /v1/cache/k?{query}"), ""), Err(Status::BadRequest), "{query}");
    }
    for (line, fields) in [("HEAD", ""), ("GET", "If-Match: \"7\"\r\n"), ("GET", "If-None-Match: \"7\"\r\n")] {
        let asked = ask(&format!("{line} /v1/cache/k?waitMs=0"), fields);
        assert_eq!(asked, Err(Status::BadRequest), "{line} {fields}");
    }
}

#[test]
fn responses_say_how_fresh_a_value_is_and_who_is_to_fill() {
    let told = |fields: &str, value: Option<&Value<'_>>, is_stale: bool, lease: Lease| {
        let bytes = head("GET /v1/cache/k", fields);
        reply(&key_call(&bytes), |out| out.leased(&Leased { value, is_stale, lease }))
    };
    let there = stored(b"v", None);
    let granted = Lease::Granted { token: 90, until: 0 };
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&body_of(&text)).unwrap();
    let fresh = json(told("", Some(&there), false, Lease::Held { until: 0 }));
    assert_eq!((&fresh["state"], &fresh["lease"]), (&"fresh".into(), &serde_json::Value::Null));
    let stale = json(told("", Some(&there), true, granted));
    assert_eq!((&stale["state"], &stale["lease"], &stale["version"]), (&"stale".into(), &90.into(), &7.into()));
    let raw = told("Accept: application/octet-stream\r\n", Some(&there), true, granted);
    assert!(raw.contains("\r\nCache-State: stale\r\nCache-Lease: 90\r\n"), "{raw}");
    for (lease, token) in [(granted, 90.into()), (Lease::Held { until: 0 }, serde_json::Value::Null)] {
        let missing = told("", None, false, lease);
        assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
        let body = json(missing);
        let all = (&body["state"], &body["lease"], &body["error"]["code"], &body["key"]);
        assert_eq!(all, (&"filling".into(), &token, &"not_found".into(), &"k".into()));
    }
    assert_eq!(json(told("", None, false, Lease::None))["state"], serde_json::Value::Null);
}
