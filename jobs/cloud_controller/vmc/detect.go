package vmc

import (
	"archive/zip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// preference is the order in which frameworks are tried, the most particular
// first; others come before these, by name, since someone has added them.
var preference = []string{"grails", "lift", "spring", "java_web", "rails3", "rack", "sinatra", "django", "wsgi", "php", "static", "node"}

// kind describes how an app runs, as far as its files tell. Zero: they do not.
type kind struct {
	framework string
	runtime   string // "": the framework's default
	command   string // "": the framework knows
	// web reports whether it is to have a URL, which an app that is no framework's
	// has only if it says so.
	web bool
}

// detect finds out what kind of app there is: by what declares how it runs, else by
// the rules that the cloud tells of its frameworks.
func detect(source string, frameworks map[string]client.Framework) (kind, error) {
	files, end, err := filesOf(source)
	if err != nil {
		return kind{}, err
	}
	defer end()
	declared, err := declares(files)
	if err != nil {
		return kind{}, err
	}
	if _, offered := frameworks[declared.framework]; offered {
		return declared, nil
	}
	names := slices.Sorted(maps.Keys(frameworks))
	rank := func(name string) int { return slices.Index(preference, name) }
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	for _, name := range names {
		fits, err := fitsFramework(files, frameworks[name])
		if err != nil {
			return kind{}, err
		}
		if fits {
			return kind{framework: name, web: true}, nil
		}
	}
	if _, offered := frameworks["binary"]; offered {
		programs, err := programsIn(files)
		if err != nil {
			return kind{}, err
		}
		if programs == 1 {
			return kind{framework: "binary", web: true}, nil
		}
	}
	return kind{}, nil
}

// filesOf returns what is pushed of a folder, an archive or a single file, until end
// is called.
func filesOf(source string) (files fs.FS, end func(), err error) {
	end = func() {}
	switch info, err := os.Stat(source); {
	case err != nil:
		return nil, nil, err
	case info.IsDir():
		return os.DirFS(source), end, nil
	case filepath.Ext(source) != ".zip":
		return onlyFile(source), end, nil
	}
	archive, err := zip.OpenReader(source)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read %s: %w", source, err)
	}
	return archive, func() { archive.Close() }, nil
}

// declares returns the kind of an app whose files say how it runs; a guess by names
// is for the others. Zero: none does.
func declares(files fs.FS) (kind, error) {
	if text, err := fs.ReadFile(files, "Procfile"); err == nil {
		if k := procfile(strings.TrimPrefix(string(text), "\ufeff"), files); k != (kind{}) {
			return k, nil
		}
	}
	for _, one := range []struct{ file, framework string }{{"Staticfile", "static"}, {"config.ru", "rack"}, {"manage.py", "wsgi"}} {
		if isThere(files, one.file) {
			return kind{framework: one.framework, web: true}, nil
		}
	}
	text, err := fs.ReadFile(files, "package.json")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kind{}, err
	}
	var about struct {
		Scripts map[string]string `json:"scripts"`
	}
	// One that is broken is for npm to complain of, when the app is staged.
	if err == nil && json.Unmarshal(text, &about) == nil && about.Scripts["start"] != "" {
		return kind{framework: "node", web: true}, nil
	}
	jars, err := executableJars(files)
	if err != nil || len(jars) != 1 || isThere(files, "WEB-INF") {
		return kind{}, err
	}
	return kind{"standalone", "java", "java $JAVA_OPTS -jar " + shellWord(jars[0]), true}, nil
}

// isEmpty reports whether a folder has nothing in it.
func isEmpty(folder string) bool {
	entries, err := os.ReadDir(folder)
	return err == nil && len(entries) == 0
}

func isThere(files fs.FS, name string) bool {
	_, err := fs.Stat(files, name)
	return err == nil
}

// process is a line of a Procfile.
var process = regexp.MustCompile(`(?m)^([A-Za-z0-9_-]+):[ \t]*(\S.*?)\s*$`)

// procfile returns what a Procfile declares: its process web, else its only one. A
// server of Python's apps is what the framework brings, and so is npm start.
func procfile(text string, files fs.FS) kind {
	lines := process.FindAllStringSubmatch(text, -1)
	i := slices.IndexFunc(lines, func(line []string) bool { return strings.EqualFold(line[1], "web") })
	web := i >= 0
	if !web {
		if len(lines) != 1 {
			return kind{}
		}
		i = 0
	}
	command := lines[i][2]
	first, rest, _ := strings.Cut(command, " ")
	switch {
	case web && slices.Contains([]string{"gunicorn", "waitress-serve", "uwsgi"}, first):
		return kind{framework: "wsgi", web: true}
	case web && first == "npm" && strings.TrimSpace(rest) == "start":
		return kind{framework: "node", web: true}
	}
	return kind{"standalone", runtimeOf(command, files), command, web}
}

// notStarted returns the processes of a folder's Procfile that a push does not start: all
// but web, where there is that one.
func notStarted(files fs.FS) (names []string) {
	text, err := fs.ReadFile(files, "Procfile")
	if err != nil {
		return nil
	}
	web := false
	for _, line := range process.FindAllStringSubmatch(strings.TrimPrefix(string(text), "\ufeff"), -1) {
		if strings.EqualFold(line[1], "web") {
			web = true
		} else if !slices.Contains(names, line[1]) {
			names = append(names, line[1])
		}
	}
	if !web {
		return nil
	}
	return names
}

// runtimeOf guesses what a command runs with: by the programs that it names, else
// by the files that declare what an app needs.
func runtimeOf(command string, files fs.FS) string {
	programs := map[string]string{
		"java": "java", "node": "node", "npm": "node", "npx": "node", "yarn": "node",
		"python": "python", "python3": "python", "gunicorn": "python", "flask": "python", "celery": "python", "uvicorn": "python",
		"ruby": "ruby", "bundle": "ruby", "rackup": "ruby", "rake": "ruby", "rails": "ruby", "puma": "ruby",
	}
	for _, word := range strings.Fields(command) {
		if strings.Contains(word, "=") {
			continue // a variable
		}
		if runtime, ok := programs[filepath.Base(word)]; ok {
			return runtime
		}
		break
	}
	for _, one := range []struct{ file, runtime string }{
		{"package.json", "node"}, {"requirements.txt", "python"}, {"Gemfile", "ruby"},
	} {
		if isThere(files, one.file) {
			return one.runtime
		}
	}
	return "binary"
}

// executableJars returns the names of the root's archives that Java can start.
func executableJars(files fs.FS) ([]string, error) {
	names, err := fs.Glob(files, "*.jar")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		f, err := files.Open(name)
		if err != nil {
			return nil, err
		}
		starts := hasMainClass(f)
		f.Close()
		if starts {
			found = append(found, name)
		}
	}
	return found, nil
}

var mainClass = regexp.MustCompile(`(?m)^Main-Class:`)

// hasMainClass reports whether a file is an archive whose manifest names what to
// start.
func hasMainClass(f fs.File) bool {
	at, ok := f.(io.ReaderAt)
	info, err := f.Stat()
	if !ok || err != nil {
		return false
	}
	archive, err := zip.NewReader(at, info.Size())
	if err != nil {
		return false
	}
	m, err := archive.Open("META-INF/MANIFEST.MF")
	if err != nil {
		return false
	}
	defer m.Close()
	text, err := io.ReadAll(io.LimitReader(m, looked))
	return err == nil && mainClass.Match(text)
}

// shellWord makes one word of a command of a text.
func shellWord(text string) string {
	if regexp.MustCompile(`^[A-Za-z0-9._/-]+$`).MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

const buildGo = "build it first (CGO_ENABLED=0 GOOS=linux go build), then push the program: --path PROGRAM"

// advice says what would do for files that nothing is known to run, "" if they are
// no known ones.
func advice(source string) string {
	if !isFolder(source) {
		return ""
	}
	files := os.DirFS(source)
	for _, one := range []struct{ glob, text string }{
		{"Dockerfile", "this cloud runs no container images: push what the Dockerfile copies and give --command"},
		{"pom.xml", "build it first, then push what was built: --path target/APP.jar or .war"},
		{"build.gradle*", "build it first, then push what was built: --path build/libs/APP.jar or .war"},
		{"go.mod", buildGo},
		{"*.go", buildGo},
		{"Cargo.toml", "build it first, then push the program: --path target/release/PROGRAM"},
		{"*.php", "this cloud has no PHP"},
		{"composer.json", "this cloud has no PHP"},
		{"requirements.txt", "a Python app needs a wsgi.py, an app.py that makes a Flask app, a manage.py of Django, or a Procfile with a line such as \"web: gunicorn module:callable\""},
		{"*.py", "a Python app needs a wsgi.py, an app.py that makes a Flask app, a manage.py of Django, or a Procfile with a line such as \"web: python server.py\""},
		{"Gemfile", "a Ruby app needs a config.ru, or a script that requires sinatra, or a Procfile"},
		{"*/index.html", "for that site, --path FOLDER"},
		{"*.html", "a site needs an index.html, or --framework static"},
	} {
		if found, err := fs.Glob(files, one.glob); err == nil && len(found) > 0 {
			return "there is " + found[0] + ": " + strings.ReplaceAll(one.text, "FOLDER", filepath.Join(source, filepath.Dir(found[0])))
		}
	}
	return ""
}

// lookedFor lists the files by which frameworks are found out.
func lookedFor(frameworks map[string]client.Framework) string {
	found := map[string]bool{}
	for _, framework := range frameworks {
		for _, rules := range framework.Detection {
			for glob, rule := range rules {
				if rule != false {
					found[glob] = true
				}
			}
		}
	}
	for _, declaration := range []string{"Procfile", "Staticfile", "an executable .jar"} {
		found[declaration] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), ", ")
}

// onlyFile is a folder with one file in it.
type onlyFile string

func (f onlyFile) Open(name string) (fs.File, error) {
	if name == filepath.Base(string(f)) {
		return os.Open(string(f))
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Glob is fs.GlobFS.
func (f onlyFile) Glob(pattern string) ([]string, error) {
	name := filepath.Base(string(f))
	if ok, err := filepath.Match(pattern, name); !ok {
		return nil, err
	}
	return []string{name}, nil
}

// ReadDir is fs.ReadDirFS.
func (f onlyFile) ReadDir(string) ([]fs.DirEntry, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, err
	}
	return []fs.DirEntry{fs.FileInfoToDirEntry(info)}, nil
}

// fitsFramework says whether one rule speaks for the framework and none against
// it: a pattern of names with true (there is such a file), false (there is none)
// or an expression that a file's text matches.
func fitsFramework(files fs.FS, framework client.Framework) (bool, error) {
	fits := false
	for _, rules := range framework.Detection {
		for _, glob := range slices.Sorted(maps.Keys(rules)) {
			found, err := fs.Glob(files, glob)
			if err != nil {
				return false, fmt.Errorf("the framework %s has a pattern %q: %w", framework.Name, glob, err)
			}
			switch rule := rules[glob].(type) {
			case bool:
				if !rule && len(found) > 0 {
					return false, nil
				}
				fits = fits || rule && len(found) > 0
			case string:
				matches, err := anyMatches(files, found, rule)
				if err != nil {
					return false, fmt.Errorf("the framework %s: %w", framework.Name, err)
				}
				fits = fits || matches
			}
		}
	}
	return fits, nil
}

// looked is the number of bytes of a file that are searched.
const looked = 1 << 20

func anyMatches(files fs.FS, names []string, expression string) (bool, error) {
	if len(names) == 0 {
		return false, nil
	}
	pattern, err := regexp.Compile("(?m)" + expression)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		f, err := files.Open(name)
		if err != nil {
			return false, err
		}
		text, err := io.ReadAll(io.LimitReader(f, looked))
		f.Close()
		if err == nil && pattern.Match(text) { // what cannot be read is a folder
			return true, nil
		}
	}
	return false, nil
}

// programsIn counts the programs in the root.
func programsIn(files fs.FS) (int, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return 0, err
	}
	programs := 0
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		f, err := files.Open(entry.Name())
		if err != nil {
			return 0, err
		}
		if at, ok := f.(io.ReaderAt); ok {
			if _, err := elf.NewFile(at); err == nil {
				programs++
			}
		}
		f.Close()
	}
	return programs, nil
}
