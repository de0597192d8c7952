package source

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// buildProgram packs a program of this content into dir.
func buildProgram(t *testing.T, dir, content string) (*packages.Index, packages.Blob) {
	t.Helper()
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "hello"), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := packages.Pack(from, filepath.Join(dir, runtime.GOOS+"_"+runtime.GOARCH), runtime.GOOS, runtime.GOARCH, []string{"hello"}); err != nil {
		t.Fatal(err)
	}
	index, err := packages.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := index.For(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Program("hello")
	if err != nil {
		t.Fatal(err)
	}
	return index, b
}

func TestKeptPackageOutlivesItsBuild(t *testing.T) {
	built := t.TempDir()
	index, first := buildProgram(t, built, "one")
	s := &session.Session{State: state.New("cf"), Store: state.Store{Dir: t.TempDir()}}
	r := &Packages{source: &Source{}, s: s, index: index}
	if b, err := r.Blob(first.Digest); err != nil || b.File != first.File {
		t.Fatalf("while it is built: %s, %v", b.File, err)
	}
	if err := os.MkdirAll(s.Store.Packages(), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // keeping what is kept is nothing to do
		if err := r.keep(first.Digest); err != nil {
			t.Fatal(err)
		}
	}
	var second packages.Blob
	r.index, second = buildProgram(t, built, "two")
	b, err := r.Blob(first.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(b.File) != s.Store.Packages() || b.Verify() != nil || b.Size != first.Size {
		t.Errorf("after another build: %+v, %v", b, b.Verify())
	}
	if _, err := r.Blob(strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("a package that is nowhere: %v", err)
	}

	// What no revision names any more goes; what one names stays.
	if err := r.keep(second.Digest); err != nil {
		t.Fatal(err)
	}
	s.State.Revisions = []state.Revision{{Number: 1, Packages: []string{second.Digest}}}
	if err := r.drop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.kept(first.Digest)); err == nil {
		t.Error("the first package is still kept")
	}
	if _, err := os.Stat(r.kept(second.Digest)); err != nil {
		t.Errorf("the second package: %v", err)
	}
}
