//! Who tells: the resource that every exported signal bears.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// This process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before the
/// defaults, `service_name`, which is configured, before them.
pub fn resource(service_name: Option<&str>, default_name: &'static str) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let mut attributes = vec![
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    if let Ok(host) = host {
        attributes.push(KeyValue::new("host.name", host.trim().to_owned()));
    }
    let defaults = Resource::builder_empty()
        .with_service_name(default_name)
        .with_attributes(attributes)
        .build();
    let told = Resource::builder_empty()
        .with_detector(Box::new(
            opentelemetry_sdk::resource::TelemetryResourceDetector,
        ))
        .with_detector(Box::new(
            opentelemetry_sdk::resource::EnvResourceDetector::new(),
        ))
        .build();
    let variable = std::env::var("OTEL_SERVICE_NAME").ok();
    let service_name = service_name
        .map(str::to_owned)
        .or(variable.filter(|name| !name.is_empty()));
    let pairs = defaults.iter().chain(told.iter());
    let pairs: Vec<_> = pairs
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
        .collect();
    // Later ones go before earlier ones.
    let builder = Resource::builder_empty().with_attributes(pairs);
    match service_name {
        Some(name) => builder.with_service_name(name).build(),
        None => builder.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::Key;

    #[test]
    fn what_is_configured_names_the_service() {
        let name = |resource: &Resource| {
            resource
                .get(&Key::new("service.name"))
                .map(|v| v.to_string())
        };
        assert_eq!(
            name(&resource(Some("mine"), "zako")).as_deref(),
            Some("mine")
        );
        assert!(name(&resource(None, "zako")).is_some());
        let version = resource(None, "zako").get(&Key::new("service.version"));
        assert!(version.is_some());
    }
}
