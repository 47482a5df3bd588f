//! The methods that a server has: strangers can't make up more of them.

use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;
use prost_types::FileDescriptorSet;

/// The paths of all methods.
#[derive(Debug)]
pub(super) struct Methods {
    known: HashSet<Arc<str>>,
    other: Arc<str>,
}

impl Methods {
    /// Those of the services in these encoded descriptor sets. One that can't be read has
    /// none; reflection, which needs them too, refuses it.
    pub(super) fn of<'a>(descriptors: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let sets = descriptors.into_iter().map(FileDescriptorSet::decode);
        let files = sets.filter_map(Result::ok).flat_map(|set| set.file);
        let paths = files.flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let service_name = format!("{package}.{}", service.name());
                let methods = service.method.into_iter();
                let path = move |name: &str| Arc::from(format!("/{service_name}/{name}"));
                methods.map(move |method| path(method.name()))
            })
        });
        Self {
            known: paths.collect(),
            other: Arc::from("other"),
        }
    }

    /// The path itself if it is a method's, or else `other`.
    pub(super) fn name(&self, path: &str) -> Arc<str> {
        Arc::clone(self.known.get(path).unwrap_or(&self.other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_have_names() {
        let methods = Methods::of([zako_protobuf::FILE_DESCRIPTOR_SET, b"no descriptors"]);
        let batch = "/zako.v1.batch.Batch/BatchUpload";
        assert_eq!(&*methods.name(batch), batch);
        for stranger in ["", "/", "/zako.v1.batch.Batch/Invented", "/a.B/C"] {
            assert_eq!(&*methods.name(stranger), "other");
        }
    }
}
