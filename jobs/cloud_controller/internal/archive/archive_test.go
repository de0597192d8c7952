package archive

import (
	"archive/zip"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"
)

const limit = 1 << 20

var limits = Limits{Bytes: limit, Files: 200}

var at = time.Date(2012, 8, 1, 10, 0, 0, 0, time.UTC)

// memory is a pool.
type memory map[string][]byte

func (m memory) Open(sha1 string, size int64) (io.ReadCloser, error) {
	data, ok := m[sha1]
	if !ok || int64(len(data)) != size {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m memory) Add(int64) (PoolWriter, error) { return &memoryWriter{pool: m}, nil }

type memoryWriter struct {
	bytes.Buffer
	pool memory
}

func (w *memoryWriter) Commit(sha1 string) error { w.pool[sha1] = w.Bytes(); return nil }
func (w *memoryWriter) Discard()                 {}

func (m memory) add(text string) Resource {
	hash := sha1.Sum([]byte(text))
	name := hex.EncodeToString(hash[:])
	m[name] = []byte(text)
	return Resource{SHA1: name, Size: int64(len(text))}
}

type file struct {
	name, text string
	mode       fs.FileMode
}

func pack(t testing.TB, files ...file) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := zip.NewWriter(&buffer)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: at}
		if f.mode == 0 {
			f.mode = 0o644
		}
		header.SetMode(f.mode)
		part, err := w.CreateHeader(header)
		if err == nil {
			_, err = io.WriteString(part, f.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func link(name, target string) file { return file{name, target, fs.ModeSymlink | 0o777} }

func run(upload []byte, resources []Resource, pool memory) (map[string]string, error) {
	var out bytes.Buffer
	var r io.ReaderAt
	if upload != nil {
		r = bytes.NewReader(upload)
	}
	if err := Pack(&out, r, int64(len(upload)), resources, pool, limits, at); err != nil {
		return nil, err
	}
	packed, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		return nil, fmt.Errorf("the package is no zip: %w", err)
	}
	files := map[string]string{}
	for _, f := range packed.File {
		if _, twice := files[f.Name]; twice {
			return nil, fmt.Errorf("the package has %q twice", f.Name)
		}
		part, err := f.Open()
		if err != nil {
			return nil, fmt.Errorf("the package: %w", err)
		}
		text, err := io.ReadAll(part)
		if err != nil {
			return nil, fmt.Errorf("the package: %q: %w", f.Name, err)
		}
		files[f.Name] = f.Mode().String() + " " + string(text)
	}
	return files, nil
}

func TestPack(t *testing.T) {
	pool := memory{}
	known := pool.add("known")
	known.Name, known.Mode = "lib/./known.js", 0o755
	again := known
	again.Name, again.Mode = "app.js", 0
	files, err := run(pack(t,
		file{"./app.js", "listen()", 0o640}, file{"lib/", "", fs.ModeDir | 0o755}, file{"lib/", "", fs.ModeDir | 0o755}, file{emptyMarker, "", 0},
		link("current", "lib/known.js"), link("lib/up", "../app.js"), file{"empty", "", 0},
	), []Resource{known, again}, pool)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"app.js": "-rw-r----- listen()", "lib/": "drwxr-xr-x ", "lib/known.js": "-rwxr-xr-x known", "empty": "-rw-r--r-- ",
		"current": "Lrwxrwxrwx lib/known.js", "lib/up": "Lrwxrwxrwx ../app.js",
	}
	if fmt.Sprint(files) != fmt.Sprint(want) {
		t.Errorf("packed\n%v\nwant\n%v", files, want)
	}
	uploaded := sha1.Sum([]byte("listen()"))
	if string(pool[hex.EncodeToString(uploaded[:])]) != "listen()" {
		t.Error("what was uploaded is not in the pool")
	}
	// The same files make the same package, so that they are not staged again.
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		upload := pack(t, file{"b", "b", 0}, file{"a", "a", 0})
		if err := Pack(out, bytes.NewReader(upload), int64(len(upload)), nil, pool, limits, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two packages of the same files differ")
	}
}

func TestRefused(t *testing.T) {
	big := strings.Repeat("0", limit)
	bomb := pack(t, file{"a", big, 0}, file{"b", big, 0}, file{"c", big, 0})
	lie := pack(t, file{"a", strings.Repeat("x", 4000), 0})
	// The size that the table of contents claims.
	i := bytes.LastIndex(lie, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(lie[i+24:], 10)
	overlap := overlapping(t)
	damaged := pack(t, file{"a", "some text", 0})
	damaged[bytes.Index(damaged, []byte("PK\x07\x08"))-5] ^= 0xff // in the data
	many := make([]file, 0, limits.Files+1)
	for i := range limits.Files + 1 {
		many = append(many, file{fmt.Sprint(i), "", 0})
	}
	for _, tc := range []struct {
		name, want string
		upload     []byte
		resources  []Resource
	}{
		{"no zip", "not a zip", []byte("hello"), nil},
		{"empty", "not a zip", []byte{}, nil},
		{"cut", "not a zip", pack(t, file{"a", "x", 0})[:30], nil},
		{"damaged", `cannot read "a"`, damaged, nil},
		{"..", "not a path inside", pack(t, file{"../x", "", 0}), nil},
		{".. within", "not a path inside", pack(t, file{"a/../../x", "", 0}), nil},
		{"absolute", "not a path inside", pack(t, file{"/etc/passwd", "", 0}), nil},
		{"absolute folder", "not a path inside", pack(t, file{"//", "", fs.ModeDir | 0o755}), nil},
		{"NUL", "not a path inside", pack(t, file{"a\x00b", "", 0}), nil},
		{"long", "longer than", pack(t, file{strings.Repeat("a", maxName+1), "", 0}), nil},
		{"twice", "twice", pack(t, file{"a", "1", 0}, file{"./a", "2", 0}), nil},
		{"file and folder", "twice", pack(t, file{"a", "1", 0}, file{"a/", "", fs.ModeDir | 0o755}), nil},
		{"below a file", "which is not a folder", pack(t, file{"a", "1", 0}, file{"a/b", "2", 0}), nil},
		{"below a link", "which is not a folder", pack(t, link("a", "b"), file{"a/x", "2", 0}), nil},
		{"device", "neither a file", pack(t, file{"a", "", fs.ModeDevice | 0o644}), nil},
		{"pipe", "neither a file", pack(t, file{"a", "", fs.ModeNamedPipe | 0o644}), nil},
		{"link out", "leads out", pack(t, link("a", "../x")), nil},
		{"link to an absolute path", "leads out", pack(t, link("a", "/etc")), nil},
		{"link out through a link", "leads out", pack(t, link("p/q/b", "../../x"), link("a", "p/q/b/../..")), nil},
		{"link in circles", "circles", pack(t, link("a", "b"), link("b", "a")), nil},
		{"link to nothing", "no valid target", pack(t, link("a", "")), nil},
		{"long link", "no valid target", pack(t, link("a", strings.Repeat("x", maxLink+1))), nil},
		{"bomb", "larger than 1 MiB", bomb, nil},
		{"lie about the size", `cannot read "a"`, lie, nil},
		{"overlap", "overlap", overlap, nil},
		{"many", "more than", pack(t, many...), nil},
		{"resource ..", "not a path inside", nil, []Resource{{Name: "../x", SHA1: strings.Repeat("a", 40), Size: 1}}},
		{"resource absolute", "not a path inside", nil, []Resource{{Name: "/x", SHA1: strings.Repeat("a", 40), Size: 1}}},
		{"resource without a name", "not a path inside", nil, []Resource{{SHA1: strings.Repeat("a", 40), Size: 1}}},
		{"resource with a path for its sha1", "no valid sha1", nil, []Resource{{Name: "x", SHA1: "../../../../../../../../../../etc/passwd..", Size: 1}}},
		{"resource of no size", "no valid sha1", nil, []Resource{{Name: "x", SHA1: strings.Repeat("a", 40), Size: -1}}},
		{"resource below a link", "which is not a folder", pack(t, link("a", "b")), []Resource{{Name: "a/x", SHA1: strings.Repeat("a", 40), Size: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := run(tc.upload, tc.resources, memory{})
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want a refusal with %q", err, tc.want)
			}
		})
	}
}

// overlapping is a zip whose table of contents names one file's bytes often.
func overlapping(t *testing.T) []byte {
	t.Helper()
	noise := make([]byte, 1000)
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	one := pack(t, file{"a", string(noise), 0})
	i := bytes.LastIndex(one, []byte("PK\x01\x02"))
	end := bytes.LastIndex(one, []byte("PK\x05\x06"))
	entry, tail := one[i:end], one[end:]
	out := append([]byte(nil), one[:i]...)
	const n = 50
	for k := range n {
		e := append([]byte(nil), entry...)
		e[46] = byte('0' + k) // the name
		out = append(out, e...)
	}
	tail = append([]byte(nil), tail...)
	binary.LittleEndian.PutUint16(tail[8:], n)
	binary.LittleEndian.PutUint16(tail[10:], n)
	binary.LittleEndian.PutUint32(tail[12:], uint32(n*len(entry)))
	return append(out, tail...)
}

func TestMissing(t *testing.T) {
	pool := memory{}
	known := pool.add("known")
	wrongSize := known
	known.Name, wrongSize.Name = "a", "b"
	wrongSize.Size++
	unknown := Resource{Name: "c", SHA1: strings.Repeat("a", 40), Size: 5}
	rotten := pool.add("rotten")
	rotten.Name = "d"
	pool[rotten.SHA1] = []byte("RotteN")
	for _, r := range []Resource{wrongSize, unknown, rotten} {
		_, err := run(nil, []Resource{known, r}, pool)
		var missing *MissingError
		if !errors.As(err, &missing) || missing.Resource.Name != r.Name {
			t.Errorf("%s: error %v, want that it is missing", r.Name, err)
		}
	}
	large := Resource{}
	large = pool.add(strings.Repeat("x", limit/2+1))
	large.Name = "1"
	second := large
	second.Name = "2"
	var refused *RefusedError
	if _, err := run(nil, []Resource{large, second}, pool); !errors.As(err, &refused) {
		t.Errorf("resources above the limit: %v", err)
	}
}

// FuzzPack: whatever is uploaded, a package that is made is a whole zip within
// the limit, names only paths inside the app, and has no link that leads out.
func FuzzPack(f *testing.F) {
	f.Add(pack(f, file{"app.js", "x", 0}, link("l", "app.js"), file{"d/", "", fs.ModeDir | 0o755}), "r.js")
	f.Add(pack(f, file{"../x", "x", 0}), "a/../b")
	f.Add(pack(f, link("a", "b/.."), link("b", "a")), "/x")
	f.Add([]byte("PK\x05\x06"), "")
	f.Fuzz(func(t *testing.T, upload []byte, name string) {
		pool := memory{}
		known := pool.add("known")
		known.Name = name
		files, err := run(upload, []Resource{known}, pool)
		var refused *RefusedError
		if errors.As(err, &refused) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for name, text := range files {
			clean := strings.TrimSuffix(name, "/")
			if !fs.ValidPath(clean) || clean == "." {
				t.Errorf("the package has %q", name)
			}
			mode, content, _ := strings.Cut(text, " ")
			total += len(content)
			if strings.HasPrefix(mode, "L") && (strings.HasPrefix(content, "/") || strings.HasPrefix(path.Join(path.Dir(clean), content), "../")) {
				t.Errorf("%q links to %q", name, content)
			}
		}
		if total > limit {
			t.Errorf("the package unpacks to %d bytes", total)
		}
	})
}
