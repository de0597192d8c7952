package packages

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// programs writes a folder of programs as the compiler would leave it.
func programs(t *testing.T, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range contents {
		writeFile(t, filepath.Join(dir, name), content)
	}
	return dir
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

func pack(t *testing.T, from, out string, names ...string) PackResult {
	t.Helper()
	r, err := Pack(from, filepath.Join(out, "linux_amd64"), "linux", "amd64", names)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func platform(t *testing.T, dir string) *Platform {
	t.Helper()
	x, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := x.For("linux", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func program(t *testing.T, p *Platform, name string) Blob {
	t.Helper()
	b, err := p.Program(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPackedProgramsAreFoundAndWhole(t *testing.T) {
	router := strings.Repeat("the router's code ", 10_000)
	from := programs(t, map[string]string{"agent": "the agent", "router": router, "nats": "the bus", "left over": "x"})
	out := t.TempDir()
	if r := pack(t, from, out, "agent", "nats", "router"); !slices.Equal(r.Packed, []string{"agent", "nats", "router"}) {
		t.Errorf("packed %v", r.Packed)
	}
	p := platform(t, out)
	if got := p.Programs(); !slices.Equal(got, []string{"nats", "router"}) {
		t.Errorf("programs = %v", got)
	}

	agent, err := p.Agent()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(agent.File); err != nil || string(got) != "the agent" || agent.Size != int64(len(got)) {
		t.Errorf("agent = %q, size %d, error %v", got, agent.Size, err)
	}
	for _, b := range []Blob{agent, program(t, p, "nats"), program(t, p, "router")} {
		if err := b.Verify(); err != nil {
			t.Error(err)
		}
	}

	f, err := os.Open(program(t, p, "router").File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(z)
	h, err := archive.Next()
	if err != nil {
		t.Fatal(err)
	}
	if h.Name != "./router" || h.Mode != 0o755 || h.ModTime.Unix() != 0 || h.Uname != "" || h.Uid != 0 {
		t.Errorf("header = %+v", h)
	}
	if got, err := io.ReadAll(archive); err != nil || string(got) != router {
		t.Errorf("the archive holds %d bytes, error %v", len(got), err)
	}
	if _, err := archive.Next(); err != io.EOF {
		t.Errorf("after the program: %v", err)
	}
}

func TestSameProgramSameDigest(t *testing.T) {
	var digests []string
	for range 2 {
		out := t.TempDir()
		pack(t, programs(t, map[string]string{"router": "code"}), out, "router")
		digests = append(digests, program(t, platform(t, out), "router").Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("two archives of one program: %v", digests)
	}
}

func TestPackAgainDoesOnlyWhatIsOwed(t *testing.T) {
	files := func(dir string) map[string]os.FileInfo {
		all := map[string]os.FileInfo{}
		entries, err := os.ReadDir(filepath.Join(dir, "linux_amd64"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if all[e.Name()], err = e.Info(); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	tests := []struct {
		name      string
		change    func(t *testing.T, from, out string)
		names     []string
		packed    []string
		removed   []string
		untouched []string // files that are still the same file
	}{
		{"nothing changed", func(*testing.T, string, string) {}, []string{"agent", "nats", "router"},
			nil, nil, []string{"agent", "nats.tar.gz", "router.tar.gz", "index.json"}},
		{"one program changed", func(t *testing.T, from, _ string) { writeFile(t, filepath.Join(from, "router"), "new code") }, []string{"agent", "nats", "router"},
			[]string{"router"}, nil, []string{"agent", "nats.tar.gz"}},
		{"the agent changed", func(t *testing.T, from, _ string) { writeFile(t, filepath.Join(from, "agent"), "new code") }, []string{"agent", "nats", "router"},
			[]string{"agent"}, nil, []string{"nats.tar.gz", "router.tar.gz"}},
		{"a program is no more", func(*testing.T, string, string) {}, []string{"agent", "router"},
			nil, []string{"nats.tar.gz"}, []string{"agent", "router.tar.gz"}},
		{"an archive was damaged", func(t *testing.T, _, out string) {
			writeFile(t, filepath.Join(out, "linux_amd64", "nats.tar.gz"), "?")
		}, []string{"agent", "nats", "router"}, []string{"nats"}, nil, []string{"agent", "router.tar.gz", "index.json"}},
		{"the index is gone", func(t *testing.T, _, out string) {
			if err := os.Remove(filepath.Join(out, "linux_amd64", "index.json")); err != nil {
				t.Fatal(err)
			}
		}, []string{"agent", "nats", "router"}, []string{"agent", "nats", "router"}, nil, nil},
		{"a crashed run left a file", func(t *testing.T, _, out string) {
			writeFile(t, filepath.Join(out, "linux_amd64", ".nats.tar.gz123"), "half")
		}, []string{"agent", "nats", "router"}, nil, []string{".nats.tar.gz123"}, []string{"agent", "nats.tar.gz", "router.tar.gz", "index.json"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			from, out := programs(t, map[string]string{"agent": "the agent", "router": "router", "nats": "nats"}), t.TempDir()
			pack(t, from, out, "agent", "nats", "router")
			before := files(out)
			test.change(t, from, out)
			r := pack(t, from, out, test.names...)
			if !slices.Equal(r.Packed, test.packed) || !slices.Equal(r.Removed, test.removed) {
				t.Errorf("packed %v, removed %v; want %v, %v", r.Packed, r.Removed, test.packed, test.removed)
			}
			after := files(out)
			for _, name := range test.untouched {
				if !os.SameFile(before[name], after[name]) || !before[name].ModTime().Equal(after[name].ModTime()) {
					t.Errorf("%s was written again", name)
				}
			}
			p := platform(t, out)
			for _, name := range p.Programs() {
				if err := program(t, p, name).Verify(); err != nil {
					t.Error(err)
				}
			}
			if len(after) != len(test.names)+1 {
				t.Errorf("%d files for %d programs and the index", len(after), len(test.names))
			}
		})
	}
}

// One file is all that a VM needs: the agent with the shim at its end.
func TestAgentCarriesTheShim(t *testing.T) {
	from, out := programs(t, map[string]string{"agent": "the agent", "shim": "the shim", "nats": "the bus"}), t.TempDir()
	pack(t, from, out, "agent", "nats", "shim")
	p := platform(t, out)
	if got := p.Programs(); !slices.Equal(got, []string{"nats"}) {
		t.Errorf("programs = %v", got)
	}
	agent, err := p.Agent()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Verify(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(agent.File)
	if err != nil || !bytes.HasPrefix(content, []byte("the agent")) {
		t.Errorf("the agent's file is %.20q, %v", content, err)
	}
	archive, err := zip.OpenReader(agent.File)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	carried, err := fs.ReadFile(archive, ShimProgram)
	if err != nil || string(carried) != "the shim" {
		t.Errorf("it carries %q, %v", carried, err)
	}

	if r := pack(t, from, out, "agent", "nats", "shim"); len(r.Packed) > 0 {
		t.Errorf("packed %v although nothing has changed", r.Packed)
	}
	writeFile(t, filepath.Join(from, "shim"), "a better shim")
	if r := pack(t, from, out, "agent", "nats", "shim"); !slices.Equal(r.Packed, []string{"agent"}) {
		t.Errorf("packed %v after the shim has changed", r.Packed)
	}
}

func TestVerifyFindsDamageAndReadsOnce(t *testing.T) {
	out := t.TempDir()
	pack(t, programs(t, map[string]string{"router": "router", "nats": "nats"}), out, "nats", "router")
	p := platform(t, out)
	nats, router := program(t, p, "nats"), program(t, p, "router")
	if err := nats.Verify(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []Blob{nats, router} {
		writeFile(t, b.File, strings.Repeat("?", int(b.Size)))
	}
	if err := program(t, p, "nats").Verify(); err != nil {
		t.Errorf("verified a second time: %v", err)
	}
	err := router.Verify()
	if err == nil || !strings.Contains(err.Error(), router.File) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("damaged archive: %v", err)
	}
}

func TestErrorsSayWhatToType(t *testing.T) {
	built := t.TempDir()
	pack(t, programs(t, map[string]string{"router": "router"}), built, "router")
	broken := t.TempDir()
	if err := os.Mkdir(filepath.Join(broken, "linux_amd64"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(broken, "linux_amd64", "index.json"), `{"os": "linux", "arch": "amd64", "packages": {"router": {"file": "../x", "digest": "", "size": 1}}}`)
	// As a deploy of another version has built it.
	other := t.TempDir()
	pack(t, programs(t, map[string]string{"agent": "agent"}), other, "agent")
	index := filepath.Join(other, "linux_amd64", "index.json")
	content, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := fmt.Sprintf(`"api": %d`, api.Version), fmt.Sprintf(`"api": %d`, api.Version+1)
	if !strings.Contains(string(content), mine) {
		t.Fatalf("the index is %s", content)
	}
	writeFile(t, index, strings.Replace(string(content), mine, theirs, 1))
	missing := filepath.Join(t.TempDir(), "bin [1]*", "packages")

	tests := []struct {
		name string
		err  func() error
		want []string
	}{
		{"nothing built", func() error { _, err := Open(missing); return err }, []string{missing, "make build", EnvDir}},
		{"broken index", func() error { _, err := Open(broken); return err }, []string{"index.json", `"../x"`, "make build"}},
		{"other version", func() error { _, err := Open(other); return err }, []string{
			"index.json", fmt.Sprintf("version %d of the agents' API, this deploy version %d", api.Version+1, api.Version), "make build"}},
		{"other platform", func() error {
			x, err := Open(built)
			if err != nil {
				t.Fatal(err)
			}
			_, err = x.For("linux", "arm64")
			return err
		}, []string{"linux/arm64", "linux/amd64", `make build PLATFORMS="linux/amd64 linux/arm64"`}},
		{"no agent", func() error { _, err := platform(t, built).Agent(); return err }, []string{"linux/amd64", "make build"}},
		{"unknown program", func() error {
			_, err := platform(t, built).Program("ruoter")
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v is not fs.ErrNotExist", err)
			}
			return err
		}, []string{`"ruoter"`, "(router)", "make build"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.err()
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not mention %q", err, want)
				}
			}
		})
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv(EnvDir, "")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		t.Fatal(err)
	}
	if got, err := DefaultDir(); err != nil || got != filepath.Join(filepath.Dir(exe), "packages") {
		t.Errorf("beside the executable: %s, %v", got, err)
	}
	t.Setenv(EnvDir, "/elsewhere")
	if got, err := DefaultDir(); err != nil || got != "/elsewhere" {
		t.Errorf("set by environment: %s, %v", got, err)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"os":"linux","arch":"amd64","agent":{"file":"agent","digest":"` + strings.Repeat("0a", 32) + `","size":1},"packages":{}}`))
	f.Add([]byte(`{"os":"linux","arch":"amd64","packages":{"x":null}}`))
	f.Add([]byte(`{"os":"linux","arch":"amd64","packages":{"x":{"file":"..","digest":"","size":-1}}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, content []byte) {
		index, err := parseIndex(content)
		if err != nil {
			return
		}
		for name, e := range index.Packages {
			if e == nil || filepath.Dir(filepath.Join("/index", e.File)) != "/index" || len(e.Digest) != 64 || e.Size < 0 || bytes.ContainsRune([]byte(e.File), '/') {
				t.Errorf("accepted %q: %+v", name, e)
			}
		}
	})
}
