//! The proxy side: connects, resumes, applies transactions, for ever.
