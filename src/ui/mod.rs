//! (module ui)
