//! A doubly linked list of keys in which each is found at once.

use crate::keys::KeyMap;

/// The newest in front, the oldest at the back; a value with each key.
#[derive(Debug, Default)]
pub struct List<V> {
    places: KeyMap<usize>,
    nodes: Vec<Node<V>>,
    free: Vec<usize>,
    front: Option<usize>,
    back: Option<usize>,
}

#[derive(Debug)]
struct Node<V> {
    key: u64,
    value: V,
    /// Towards the front.
    newer: Option<usize>,
    older: Option<usize>,
}

impl<V: Copy> List<V> {
    pub fn push_front(&mut self, key: u64, value: V) {
        let node = Node {
            key,
            value,
            newer: None,
            older: self.front,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        match self.front {
            Some(front) => self.nodes[front].newer = Some(at),
            None => self.back = Some(at),
        }
        self.front = Some(at);
        self.places.insert(key, at);
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let at = *self.places.get(&key)?;
        Some(&mut self.nodes[at].value)
    }

    pub fn oldest(&self) -> Option<u64> {
        Some(self.nodes[self.back?].key)
    }

    /// The key on the newer side of this one.
    pub fn newer(&self, key: u64) -> Option<u64> {
        let at = *self.places.get(&key)?;
        Some(self.nodes[self.nodes[at].newer?].key)
    }

    pub fn remove(&mut self, key: u64) -> Option<V> {
        let at = self.places.remove(&key)?;
        let Node {
            value,
            newer,
            older,
            ..
        } = self.nodes[at];
        match newer {
            Some(newer) => self.nodes[newer].older = older,
            None => self.front = older,
        }
        match older {
            Some(older) => self.nodes[older].newer = newer,
            None => self.back = newer,
        }
        self.free.push(at);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_removals() {
        let mut list = List::default();
        for key in 1..=4 {
            list.push_front(key, key * 10);
        }
        assert_eq!(list.remove(2), Some(20));
        assert_eq!(list.remove(2), None);
        assert_eq!((list.oldest(), list.newer(1)), (Some(1), Some(3)));
        assert_eq!(list.remove(4), Some(40));
        assert_eq!(list.newer(3), None);
        list.push_front(5, 50);
        assert_eq!(list.newer(3), Some(5));
        assert_eq!(list.remove(1), Some(10));
        assert_eq!(list.oldest(), Some(3));
        *list.get_mut(5).unwrap() += 1;
        assert_eq!(list.remove(5), Some(51));
        assert_eq!(list.remove(3), Some(30));
        assert_eq!(list.oldest(), None);
    }
}
