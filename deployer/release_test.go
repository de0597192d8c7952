package deployer

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/packages"
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
	r := &run{Deployer: &Deployer{}, state: state.New("cf"), store: state.Store{Dir: t.TempDir()}, packages: index}
	if b, err := r.blob(first.Digest); err != nil || b.File != first.File {
		t.Fatalf("while it is built: %s, %v", b.File, err)
	}
	if err := os.MkdirAll(r.store.Packages(), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // keeping what is kept is nothing to do
		if err := r.keepPackage(first.Digest); err != nil {
			t.Fatal(err)
		}
	}
	var second packages.Blob
	r.packages, second = buildProgram(t, built, "two")
	b, err := r.blob(first.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(b.File) != r.store.Packages() || b.Verify() != nil || b.Size != first.Size {
		t.Errorf("after another build: %+v, %v", b, b.Verify())
	}
	if _, err := r.blob(strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("a package that is nowhere: %v", err)
	}

	// What no revision names any more goes; what one names stays.
	if err := r.keepPackage(second.Digest); err != nil {
		t.Fatal(err)
	}
	r.state.Revisions = []state.Revision{{Number: 1, Packages: []string{second.Digest}}}
	if err := r.dropPackages(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.keptPackage(first.Digest)); err == nil {
		t.Error("the first package is still kept")
	}
	if _, err := os.Stat(r.keptPackage(second.Digest)); err != nil {
		t.Errorf("the second package: %v", err)
	}
}
