package agent

import "slices"

// systemPath is the place where Debian keeps programs, those of daemons included.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// BaseEnv returns what processes and hooks inherit of an agent's own environment:
// nothing by chance. DEPLOY_VM must reach everything that runs on a VM whose
// processes are found by it.
func BaseEnv(environ []string) []string {
	env := []string{"PATH=" + systemPath}
	if path := lookup(environ, "PATH"); path != "" {
		env[0] = "PATH=" + path + ":" + systemPath
	}
	for _, name := range []string{"HOME", "LANG", "TZ", "DEPLOY_VM"} {
		if value := lookup(environ, name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	if !slices.ContainsFunc(env, func(e string) bool { return len(e) > 5 && e[:5] == "LANG=" }) {
		env = append(env, "LANG=C.UTF-8")
	}
	return env
}
