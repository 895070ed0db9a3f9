//! Configuration changes under load: no allowed request fails, no denied request passes, at any instant.

use http::Method;
use selvage_tests::{Directory, Running};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many edits there are.
const EDITS: usize = 200;

/// Clients that ask all the time.
const CLIENTS: usize = 4;

#[derive(Debug, Default)]
struct Count {
    allowed: AtomicU64,
    denied: AtomicU64,
    wrong: std::sync::Mutex<Vec<String>>,
}

/// Asks for something allowed and something denied in turn, on one connection, until told to stop; a connection that is closed between
/// requests (a listener may drain it) is opened again, a request that fails counts.
async fn ask(running: Arc<Running>, count: Arc<Count>, stop: Arc<AtomicBool>, http2: bool) {
    let client = running.client("bookshop/public", 8080);
    let client = if http2 { client.http2() } else { client };
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        for (path, status, counter) in [("/books/2", 200, &count.allowed), ("/orders/17", 403, &count.denied)] {
            let mut open = match connection.take() {
                Some(open) => open,
                None => client.connect().await.expect("a connection"),
            };
            match open.send(Method::GET, path, "").await {
                Ok(answer) if answer.status == status => {
                    counter.fetch_add(1, Ordering::Relaxed);
                    connection = (answer.header("connection") != "close").then_some(open);
                }
                Ok(answer) => count.wrong.lock().expect("nobody panicked").push(format!("{path}: {} {}", answer.status, answer.text())),
                Err(error) => count.wrong.lock().expect("nobody panicked").push(format!("{path}: {error:#}")),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_edits_and_a_restart_of_the_publishing_side_fail_no_request() {
    let directory = Directory::copy_of("examples/bookshop");
    directory.replace("app/policies.yaml", "requests: 20", "requests: 1000000");
    let running = Arc::new(Running::start(&directory).await);
    let (count, stop) = (Arc::new(Count::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(ask(running.clone(), count.clone(), stop.clone(), number % 2 == 1))).collect();

    // Edits of every sort, none of which concerns these requests' outcome; one in the middle of each hundred is a restart.
    let probe = running.client("bookshop/public", 8080);
    let mut seen = 0;
    for edit in 0..EDITS {
        directory.write("app/edited.yaml", &edited(edit));
        if edit % 100 == 50 {
            let sent = std::process::Command::new("kill").args(["-USR1", &running.pid().to_string()]).status().expect("kill runs");
            assert!(sent.success());
        }
        if edit % 20 == 19 {
            // The edit is live: its own route answers with its own number.
            let begun = Instant::now();
            loop {
                let answer = probe.clone().with("host", &format!("edit-{edit}.example")).get("/edited").await;
                if answer.status == 302 && answer.header("location").contains(&format!("to-{edit}")) {
                    seen += 1;
                    break;
                }
                assert!(
                    begun.elapsed() < Duration::from_secs(15),
                    "edit {edit} does not take effect: {}\n{}",
                    answer.status,
                    running.said()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client does not panic");
    }
    let wrong = count.wrong.lock().expect("nobody panicked").clone();
    let (allowed, denied) = (count.allowed.load(Ordering::Relaxed), count.denied.load(Ordering::Relaxed));
    assert!(wrong.is_empty(), "{} of {} requests went wrong, the first: {:?}", wrong.len(), allowed + denied, &wrong[..wrong.len().min(5)]);
    assert!(allowed > 100 && denied > 100, "there was no load: {allowed} allowed, {denied} denied");
    assert_eq!(seen, EDITS / 20);
    let said = running.said();
    assert_eq!(said.matches("publisher was restarted").count(), 2, "{said}");
    eprintln!("{EDITS} edits and 2 restarts: {allowed} allowed and {denied} denied requests, 0 failed");
}

/// A route, a policy on it and a Service without endpoints, different each time.
fn edited(edit: usize) -> String {
    let requests = 1000 + edit;
    format!(
        r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: edited, namespace: bookshop }}
spec:
  parentRefs: [{{ name: public }}]
  hostnames: [edit-{edit}.example]
  rules:
  - name: away
    matches: [{{ path: {{ type: Exact, value: /edited }} }}]
    filters:
    - type: RequestRedirect
      requestRedirect: {{ hostname: to-{edit}.example, statusCode: 302 }}
---
apiVersion: selvage.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{ name: edited, namespace: bookshop }}
spec:
  targetRefs: [{{ kind: HTTPRoute, name: edited }}]
  limits: [{{ name: changing, requests: {requests}, per: 1s }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: edited-{edit}, namespace: bookshop }}
spec:
  selector: {{ app: nobody }}
  ports: [{{ name: http, port: 8080 }}]
"#
    )
}
