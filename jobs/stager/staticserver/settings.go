package staticserver

import (
	"bufio"
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"
)

// SettingsFile is Cloud Foundry's file of a site's settings, and PasswordsFile has who
// may see it. Neither is part of the site.
const (
	SettingsFile  = "Staticfile"
	PasswordsFile = "Staticfile.auth"
)

// Settings are those of a site, as its Staticfile says them.
type Settings struct {
	Root       string // the folder that is served, "." by default
	PushState  bool   // what is no file is the page index.html
	ForceHTTPS bool   // requests that did not come by HTTPS are sent there
	HSTS       string // the header Strict-Transport-Security of answers, "": none
	DotFiles   bool   // files whose names begin with a dot are served, but these two
	// Unknown are the keys that mean nothing here.
	Unknown []string
}

var setting = regexp.MustCompile(`^([A-Za-z_]+)\s*:\s*(.*?)\s*$`)

// Read reads a Staticfile. Whatever it says, the root is within the site.
func Read(text []byte) Settings {
	s := Settings{Root: "."}
	hsts, subdomains, preload := false, false, false
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), " #")
		m := setting.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		value := strings.Trim(m[2], `"'`)
		on := slices.Contains([]string{"enabled", "true", "yes", "on"}, strings.ToLower(value))
		switch m[1] {
		case "root":
			s.Root = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(value, `\`, "/")), "/")
			if s.Root == "" {
				s.Root = "."
			}
		case "pushstate":
			s.PushState = on
		case "force_https":
			s.ForceHTTPS = on
		case "host_dot_files":
			s.DotFiles = on
		case "http_strict_transport_security":
			hsts = on
		case "http_strict_transport_security_include_subdomains":
			subdomains = on
		case "http_strict_transport_security_preload":
			preload = on
		default:
			s.Unknown = append(s.Unknown, m[1])
		}
	}
	if hsts {
		s.HSTS = "max-age=31536000"
		if subdomains {
			s.HSTS += "; includeSubDomains"
		}
		if preload {
			s.HSTS += "; preload"
		}
	}
	return s
}
