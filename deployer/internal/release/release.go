// Package release makes and reads archives of releases: jobs, and the programs
// that they need, built. A manifest pins one by its sha256.
//
// An archive is a tar.gz with, in this order,
//
//	release.json                   version; programs by platform, with digests
//	jobs/<job>/job.hcl             and jobs/<job>/templates/...
//	packages/<digest>.tar.gz       the programs, as VMs get them
//
// It depends on nothing but what is in it: the same jobs and programs make the
// same archive.
package release

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	format    = 1
	indexName = "release.json"
	// maxJobs bounds what all files of an archive's jobs may have together.
	maxJobs = 64 << 20
)

// Package is a program of a release as it goes to VMs.
type Package struct {
	Digest string `json:"digest"` // sha256, 64 hex
	Size   int64  `json:"size"`   // bytes
}

// index is release.json.
type index struct {
	Format  int    `json:"format"`
	Version string `json:"version"`
	// Packages by platform, "<os>_<arch>", and program.
	Packages map[string]map[string]Package `json:"packages"`
}

func parseIndex(content []byte) (*index, error) {
	var x index
	if err := json.Unmarshal(content, &x); err != nil {
		return nil, fmt.Errorf("cannot read its %s: %w", indexName, err)
	}
	if x.Format != format {
		return nil, fmt.Errorf("it has format %d and this deploy knows format %d; use a newer deploy, or create the release again", x.Format, format)
	}
	if x.Version == "" {
		return nil, errors.New("it names no version")
	}
	for platform, programs := range x.Packages {
		for name, p := range programs {
			// Digests become paths, here and on VMs.
			if b, err := hex.DecodeString(p.Digest); err != nil || len(b) != 32 || strings.ToLower(p.Digest) != p.Digest || p.Size < 0 {
				return nil, fmt.Errorf("package %q for %s: %q with %d bytes is not a sha256 and a size", name, platform, p.Digest, p.Size)
			}
		}
	}
	return &x, nil
}

func packageName(digest string) string { return "packages/" + digest + ".tar.gz" }
