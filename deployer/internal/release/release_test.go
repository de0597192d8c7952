package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/deployer/internal/packages"
)

var digestZero = strings.Repeat("0", 64)

// source is a release of a job with one program.
func source(t testing.TB) Source {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hello.tar.gz")
	if err := os.WriteFile(file, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("a program"))
	b, err := packages.FileBlob(file, hex.EncodeToString(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	return Source{
		Jobs: fstest.MapFS{
			"hello/job.hcl":                {Data: []byte("description = \"hello\"\n")},
			"hello/templates/hello.yml":    {Data: []byte("a: 1\n")},
			"hello/templates/sub/more.yml": {Data: []byte("b: 2\n")},
			"hello/cmd/hello/main.go":      {Data: []byte("package main\n")},
			"shared/base.hcl":              {Data: []byte("consumes \"bus\" {}\n")},
			"shared/unused/base.hcl":       {Data: []byte("consumes \"bus\" {}\n")},
		},
		Names: []string{"hello"}, Bases: []string{"shared/base.hcl"}, Version: "1.2",
		Programs: map[string]map[string]packages.Blob{"linux_amd64": {"hello": b}, "linux_arm64": {"hello": b}},
	}
}

// create returns an archive's bytes.
func create(t testing.TB, s Source) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := Create(&out, s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// write puts an archive on disk and returns its path and sha256.
func write(t testing.TB, data []byte) (path, digest string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "r.tar.gz")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return path, hex.EncodeToString(sum[:])
}

func TestCreateAndOpen(t *testing.T) {
	s := source(t)
	data := create(t, s)
	if !bytes.Equal(data, create(t, s)) {
		t.Error("the same source made two archives")
	}
	path, digest := write(t, data)
	a, err := Open(path, digest, "1.2", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Version != "1.2" {
		t.Errorf("version %q", a.Version)
	}
	var files []string
	err = fs.WalkDir(a.Jobs, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, name)
		}
		return err
	})
	if want := "hello/job.hcl hello/templates/hello.yml hello/templates/sub/more.yml shared/base.hcl"; err != nil || strings.Join(files, " ") != want {
		t.Errorf("jobs hold %v (%v), want %s", files, err, want)
	}
	program := a.Packages("linux", "arm64")["hello"]
	if len(a.Packages("plan9", "mips")) != 0 || program.Size != 9 {
		t.Errorf("packages: %+v", program)
	}
	to := filepath.Join(t.TempDir(), "out")
	if found, err := a.Extract(digestZero, to); found || err != nil {
		t.Errorf("a package that is not there: %v, %v", found, err)
	}
	if found, err := a.Extract(program.Digest, to); !found || err != nil {
		t.Fatalf("extract: %v, %v", found, err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != "a program" {
		t.Errorf("extracted %q, %v", got, err)
	}
	// Something took the archive's place since.
	if err := os.WriteFile(path, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Extract(program.Digest, filepath.Join(t.TempDir(), "out")); err == nil {
		t.Error("half an archive gave a package")
	}
}

func TestVersionFromContent(t *testing.T) {
	s := source(t)
	s.Version = ""
	version := func() string {
		v, err := Create(&bytes.Buffer{}, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := version()
	if version() != first {
		t.Error("the same content has two versions")
	}
	s.Jobs.(fstest.MapFS)["hello/cmd/hello/main.go"].Data = []byte("another source, the same program")
	if version() != first {
		t.Error("what is not in the archive changed its version")
	}
	s.Jobs.(fstest.MapFS)["hello/templates/hello.yml"].Data = []byte("a: 2\n")
	if version() == first {
		t.Error("another template has the same version")
	}
}

// archiveOf is a tar.gz of names and contents, in turn.
func archiveOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	archive := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		if err := add(archive, files[i], []byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOpenRefuses(t *testing.T) {
	good := create(t, source(t))
	const index = `{"format": 1, "version": "1", "packages": {}}`
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"no tar.gz", []byte("hello"), "not a tar.gz"},
		{"half", good[:len(good)/2], "damaged"},
		{"no index", archiveOf(t, "jobs/a/job.hcl", ""), "no release.json"},
		{"way out", archiveOf(t, "release.json", index, "jobs/../../etc/passwd", ""), "passwd"},
		{"other file", archiveOf(t, "release.json", index, "bin/sh", ""), "bin/sh"},
		{"twice", archiveOf(t, "release.json", index, "jobs/a/job.hcl", "", "jobs/a/job.hcl", ""), "jobs/a/job.hcl"},
		{"newer", archiveOf(t, "release.json", `{"format": 2}`), "newer deploy"},
		{"no version", archiveOf(t, "release.json", `{"format": 1}`), "no version"},
		{"no digest", archiveOf(t, "release.json", `{"format": 1, "version": "1", "packages": {"linux_amd64": {"a": {"digest": "../x"}}}}`), "../x"},
		{"other version", archiveOf(t, "release.json", `{"format": 1, "version": "2"}`), `version "2"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path, digest := write(t, test.data)
			if _, err := Open(path, digest, "1", nil); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want it to say %q", err, test.want)
			}
		})
	}
	path, digest := write(t, good)
	if _, err := Open(path, digestZero, "", nil); err == nil || !strings.Contains(err.Error(), digest) {
		t.Errorf("another sha256: %v", err)
	}
	if _, err := Open(path+"x", digest, "", nil); err == nil {
		t.Error("a file that does not exist was opened")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(create(f, source(f)))
	f.Add(archiveOf(f, "release.json", `{"format": 1, "version": "1"}`, "jobs/a", "x", "jobs/a/b", "y"))
	f.Add([]byte{0x1f, 0x8b, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := read(bytes.NewReader(data))
		if err != nil {
			return
		}
		err = fs.WalkDir(a.Jobs, ".", func(name string, _ fs.DirEntry, err error) error {
			if !fs.ValidPath(name) {
				return fmt.Errorf("a file is named %q", name)
			}
			return nil // a file below a file is for the job's loader to refuse
		})
		if err != nil {
			t.Error(err)
		}
	})
}
