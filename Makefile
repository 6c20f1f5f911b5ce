# make           build/bothy
# make demo      boot a stock Debian kernel to a shell on this terminal
# make check     every test; installs what is missing
# make soak      the tests that have a long form, at full length, and all of images with the
#                thread sanitizer: hours
# make bench     measurements against peers, as ratios
# make install   program, plug-ins and manual page, below DESTDIR/PREFIX

PREFIX ?= /usr/local
BUILD  ?= build
SAN    ?= build/san

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) $(NINJAFLAGS)

$(BUILD)/build.ninja:
	@scripts/deps build
	@meson setup $(BUILD) --prefix=$(PREFIX) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

demo: all
	@scripts/deps demo
	@scripts/demo $(BUILD)

# The packages first: a build made without them has no unit tests.
check:
	@scripts/deps check $(BUILD)
	@$(MAKE) --no-print-directory all
	@scripts/check $(BUILD) $(SAN)

soak:
	@scripts/deps check $(BUILD)
	@$(MAKE) --no-print-directory all
	@SOAK=1 scripts/run-tests $(BUILD) --suite soak --jobs 1
	@SOAK=1 scripts/check-threads $(SAN)-threads --suite threads --jobs 1
	@SOAK=1 scripts/check-threads $(SAN)-threads --suite image --not-suite soak --not-suite ceph --jobs 1

bench: all
	@scripts/deps bench
	@bench/run $(BUILD)

fuzz:
	@scripts/deps check
	@scripts/fuzz

# After a change of options: the manual page from the tables.
manual: all
	@scripts/manual $(BUILD)/bothy >docs/man/bothy.1

install: all
	@meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD)

.PHONY: all demo check soak bench fuzz manual install clean
