package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPack(t *testing.T) {
	folder := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(folder, "app/empty"), 0o755))
	must(os.WriteFile(filepath.Join(folder, "startup"), []byte("go"), 0o500))
	must(os.WriteFile(filepath.Join(folder, "app/x"), []byte("x"), 0o644))
	must(os.Symlink("x", filepath.Join(folder, "app/l")))
	var b bytes.Buffer
	must(Pack(t.Context(), &b, folder, 100))
	r, err := gzip.NewReader(&b)
	must(err)
	var list []string
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(err)
		text, err := io.ReadAll(archive)
		must(err)
		list = append(list, fmt.Sprintf("%s %o %s%s", header.Name, header.Mode, header.Linkname, text))
	}
	want := []string{"./ 755 ", "./app/ 755 ", "./app/empty/ 755 ", "./app/l 777 x", "./app/x 644 x", "./startup 500 go"}
	if !slices.Equal(list, want) {
		t.Errorf("packed\n%q\nwant\n%q", list, want)
	}

	late, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Pack(late, io.Discard, folder, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("when the time is over: %v", err)
	}
	if err := Pack(t.Context(), io.Discard, folder, 2); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("too large: %v", err)
	}
	must(os.Symlink("/etc", filepath.Join(folder, "app/etc")))
	if err := Pack(t.Context(), io.Discard, folder, 100); err == nil || !strings.Contains(err.Error(), `app/etc: is a link to "/etc"`) {
		t.Errorf("link out: %v", err)
	}
}
